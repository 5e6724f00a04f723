#!/usr/bin/env python3
"""Makes test vectors for presets that have none, from what their files say of the scheme; never with hooklatch's own code.

    python3 scripts/vectors.py check [NAME...]   every valid vector of a declarative scheme, recomputed
    python3 scripts/vectors.py make  [NAME...]   adds a vector to each scheme that has none

Public keys need the package `cryptography`. What is code in hooklatch (jws, aws-sns, ...) is made in `coded` below.
"""
import base64, hashlib, hmac, json, pathlib, re, sys, tomllib, urllib.parse, zlib
from datetime import datetime, timezone

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "config" / "providers"
NOW = 1700000000
CODE = {"jws", "aws-sns", "paypal", "plivo-v3", "contentful", "braintree"}
URL = "https://hooks.example.com/hooks"


def names(scheme):
    header = scheme.get("header", [])
    return [header] if isinstance(header, str) else header


def key_of(scheme, secret):
    form = scheme.get("key", "utf8")
    if form == "hex":
        return bytes.fromhex(secret)
    if form in ("base64", "whsec"):
        text = secret.removeprefix("whsec_") if form == "whsec" else secret
        return base64.b64decode(text + "=" * (-len(text) % 4))
    return secret.encode()


def json_at(body, pointer):
    value = json.loads(body)
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(token)] if isinstance(value, list) else value[token]
        except (KeyError, IndexError):
            return ""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def fill(scheme, request, time, tags):
    """The signed bytes."""
    template = scheme.get("signed", "{body}")
    headers = {name.lower(): value for name, value in request["headers"]}
    body = request["body"]

    def one(name):
        name, _, how = name.partition("|")
        kind, _, what = name.partition(":")
        if kind == "body":
            text = body
        elif kind == "timestamp":
            text = time
        elif kind == "method":
            text = request.get("method", "POST")
        elif kind == "url":
            text = url_of(scheme, request["url"])
        elif kind == "secret":
            text = request["secret"]
        elif kind == "form_sorted":
            pairs = sorted(set(urllib.parse.parse_qsl(body, keep_blank_values=True)))
            text = "".join(k + v for k, v in pairs)
        elif kind == "header":
            text = headers[what.lower()]
        elif kind == "json":
            text = json_at(body, what)
        elif kind == "tag":
            text = tags[what]
        elif kind == "header_values":
            text = ".".join(headers[h.lower()] for h in tags[what].split())
        else:
            raise ValueError(name)
        if how == "json":
            text = json.dumps(text, ensure_ascii=False)
        elif how == "base64":
            text = base64.b64encode(text.encode()).decode()
        return text

    out = ""
    for piece in re.split(r"(\{\{|\}\}|\{[^{}]+\})", template):
        out += {"{{": "{", "}}": "}"}.get(piece) or (one(piece[1:-1]) if piece.startswith("{") else piece)
    return out.encode()


def url_of(scheme, url):
    if scheme.get("url") == "decoded":
        table = {"3A": ":", "2F": "/", "3F": "?", "40": "@", "21": "!", "24": "$", "27": "'", "28": "(", "29": ")", "2A": "*", "2C": ",", "3B": ";"}
        return re.sub("%([0-9A-Fa-f]{2})", lambda m: table.get(m.group(1).upper(), m.group(0)), url)
    return url


def encode(scheme, digest):
    how = scheme.get("encoding", "hex")
    if how == "base64":
        return base64.b64encode(digest).decode()
    if how == "base64url":
        return base64.urlsafe_b64encode(digest).decode()
    return digest.hex()


def mac(scheme, request, message):
    algorithm = scheme.get("algorithm", "hmac-sha256")
    if algorithm == "sha256":
        return hashlib.sha256(message).digest()
    name = {"hmac-sha256": "sha256", "hmac-sha1": "sha1", "hmac-sha512": "sha512"}[algorithm]
    return hmac.new(key_of(scheme, request["secret"]), message, name).digest()


def public(scheme):
    """A fresh key pair: the secret's text, and what signs."""
    from cryptography.hazmat.primitives import hashes, serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    algorithm = scheme["algorithm"]
    if algorithm == "ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
        sign = private.sign
    elif algorithm == "ecdsa-p256":
        private = ec.generate_private_key(ec.SECP256R1())
        sign = lambda m: private.sign(m, ec.ECDSA(hashes.SHA256()))
    else:
        private = rsa.generate_private_key(65537, 2048)
        digest = hashes.SHA256() if algorithm == "rsa-sha256" else hashes.SHA512()
        sign = lambda m: private.sign(m, padding.PKCS1v15(), digest)
    key = private.public_key()
    form = scheme.get("key", "pem")
    if form in ("raw-hex", "raw-base64", "whpk"):
        raw = key.public_bytes(s.Encoding.Raw, s.PublicFormat.Raw)
        text = raw.hex() if form == "raw-hex" else base64.b64encode(raw).decode()
        return ("whpk_" if form == "whpk" else "") + text, sign
    if form == "spki-base64":
        der = key.public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode(), sign
    return key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode(), sign


def sample(preset):
    one = next((s for s in preset.get("sample", [])), {"body": '{"id":"{id}"}'})
    body = one["body"]
    for name, value in (("{id}", "01HQXW5K8M3N7P2R4S6T8V0W1X"), ("{uuid}", "6f1f9f4e-3a52-4c0a-9d5e-2b7c1e8a4d10"), ("{time}", "2023-11-14T22:13:20Z"),
                        ("{unix}", str(NOW)), ("{unix_ms}", str(NOW * 1000))):
        body = body.replace(name, value)
    return body, [list(h) for h in one.get("headers", [])]


def secret_for(scheme):
    algorithm, form = scheme.get("algorithm", "hmac-sha256"), scheme.get("key", "utf8")
    raw = hashlib.sha256(b"a secret for vectors").digest()
    if algorithm == "basic":
        return "hooks:a-password-for-vectors"
    return {"hex": raw.hex(), "base64": base64.b64encode(raw).decode(), "whsec": "whsec_" + base64.b64encode(raw).decode()}.get(form, "a-secret-for-vectors-0123456789")


def stamp(unit):
    return {"s": str(NOW), "ms": str(NOW * 1000), "iso8601": "2023-11-14T22:13:20Z"}[unit]


def make(preset, scheme):
    algorithm = scheme.get("algorithm", "hmac-sha256")
    body, headers = sample(preset)
    request = {"headers": headers, "body": body, "url": URL, "secret": secret_for(scheme)}
    sign = None
    if algorithm in ("ed25519", "ecdsa-p256", "rsa-sha256", "rsa-sha512"):
        request["secret"], sign = public(scheme)
    time, rule, items, tags = None, scheme.get("timestamp"), [], {}
    separator = scheme.get("tag_separator", "")
    if rule:
        time = stamp(rule.get("unit", "s"))
        if "header" in rule:
            headers.append([rule["header"], time])
        elif "tag" in rule:
            items.append(rule["tag"] + separator + time)
        elif rule.get("first"):
            items.append(time)
        else:
            time = json_at(body, rule["json"])
    known = {name for name, _ in headers}
    template = scheme.get("signed", "{body}")
    for name in re.findall(r"\{header:([^}|]+)", template):
        if name.lower() not in known:
            known.add(name.lower())
            headers.append([name.lower(), "msg_2Lh9KRb0pzN4LePd3XiA4v12Axj"])
    for tag in re.findall(r"\{tag:([^}|]+)", template):
        if tag in tags:
            continue
        if "{header_values:" + tag + "}" in template:
            headers.append(["x-event-id", "evt_1"])
            tags[tag] = "x-event-id"
        else:
            tags[tag] = "production"
        items.append(tag + separator + tags[tag])
    for name, value in scheme.get("require_headers", {}).items():
        headers.append([name, value])
    if "body_digest" in scheme:
        request["url"] += "?" + scheme["body_digest"]["query"] + "=" + hashlib.sha256(body.encode()).hexdigest()
    if algorithm == "token":
        value = request["secret"]
    elif algorithm == "basic":
        value = "Basic " + base64.b64encode(request["secret"].encode()).decode()
    else:
        message = fill(scheme, request, time, tags)
        value = encode(scheme, sign(message) if sign else mac(scheme, request, message))
    value = scheme.get("prefix", "") + value
    if "list" in scheme:
        if "tags" in scheme:
            tag = scheme["tags"][0]
            value = ("1" if tag == "*" else tag) + separator + value
        value = scheme["list"].join(items + [value])
    if "in_query" in scheme:
        request["url"] += ("&" if "?" in request["url"] else "?") + scheme["in_query"] + "=" + urllib.parse.quote_plus(value)
    elif "in_json" in scheme or "in_form" in scheme:
        if "{signature}" not in body:
            return None
        request["body"] = body.replace("{signature}", value)
    elif "header_numbered" in scheme:
        headers.append([scheme["header_numbered"].replace("{n}", "1"), value])
    else:
        headers.append([names(scheme)[0], value])
    return request


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def rsa_pair():
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048)
    spki = private.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
    return private, base64.b64encode(spki).decode()


def rsa_sign(private, message, bits=256):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    return private.sign(message, padding.PKCS1v15(), {1: hashes.SHA1, 256: hashes.SHA256, 384: hashes.SHA384, 512: hashes.SHA512}[bits]())


def jwk_pair(algorithm):
    """A JWK Set with one public key, and what signs."""
    if algorithm.startswith("ES"):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        private = ec.generate_private_key(ec.SECP256R1())
        point = private.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "x": b64url(point.x.to_bytes(32, "big")), "y": b64url(point.y.to_bytes(32, "big"))}

        def sign(message):
            r, s = utils.decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        private, _ = rsa_pair()
        numbers = private.public_key().public_numbers()
        jwk = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        sign = lambda message: rsa_sign(private, message, int(algorithm[2:]))
    jwk |= {"kid": "vectors", "use": "sig", "alg": algorithm}
    return json.dumps({"keys": [jwk]}), sign


def jws(scheme, request):
    rule = scheme.get("jws", {})
    algorithm = rule["algorithms"][0]
    if algorithm.startswith("HS"):
        sign = lambda message: hmac.new(request["secret"].encode(), message, "sha" + algorithm[2:]).digest()
    else:
        key_set, sign = jwk_pair(algorithm)
        if "jwks" in rule:
            request["fetched"] = key_set
            request["secret"] = "https://hooks.example.com hooks@example.com" if rule.get("secret_claims") else "any-text-of-sixteen"
        else:
            request["secret"] = key_set
    body = request["body"]
    issuer = rule.get("issuer", [])
    claims = {"iat": NOW, "exp": NOW + 300}
    if issuer:
        claims["iss"] = issuer if isinstance(issuer, str) else issuer[0]
    if rule.get("audience"):
        claims["aud"] = request["url"] if rule["audience"] == "public_url" else rule["audience"]
    for claim, word in zip(rule.get("secret_claims", []), request["secret"].split()):
        claims[claim] = word
    for claim, value in rule.get("required_claims", {}).items():
        claims[claim] = True if value == "true" else value
    if "body_claim" in rule:
        digest = hashlib.sha256(body.encode()).digest()
        claims[rule["body_claim"]] = {"hex": digest.hex(), "base64": base64.b64encode(digest).decode()}[rule.get("body_claim_encoding", "hex")]
    if "url_claim" in rule:
        claims[rule["url_claim"]] = hashlib.sha256(request["url"].encode()).hexdigest()
    head = {"alg": algorithm, "typ": "JWT"}
    if not algorithm.startswith("HS"):
        head["kid"] = "vectors"
    payload = body if rule.get("detached") else json.dumps(claims, separators=(",", ":"))
    message = b64url(json.dumps(head, separators=(",", ":")).encode()) + "." + b64url(payload.encode())
    signature = b64url(sign(message.encode()))
    token = (message.split(".")[0] + "." if rule.get("detached") else message) + "." + signature
    request["headers"].append([(names(scheme) or ["authorization"])[0], scheme.get("prefix", "") + token])


def sns(request):
    private, request["fetched"] = rsa_pair()
    message = json.loads(request["body"])
    message |= {"SignatureVersion": "2", "SigningCertURL": "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"}
    text = "".join(f"{name}\n{message[name]}\n" for name in ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type") if name in message)
    message["Signature"] = base64.b64encode(rsa_sign(private, text.encode())).decode()
    request["body"], request["secret"] = json.dumps(message, ensure_ascii=False), message["TopicArn"]


def paypal(request):
    private, request["fetched"] = rsa_pair()
    request["secret"] = "4JH86294D6297924G"
    sent = ("89556ce0-4d55-11ee-9f56-dd5f48f22b28", "2023-11-14T22:13:20Z")
    text = "|".join([*sent, request["secret"], str(zlib.crc32(request["body"].encode()))])
    request["headers"] += [["paypal-transmission-id", sent[0]], ["paypal-transmission-time", sent[1]], ["paypal-auth-algo", "SHA256withRSA"],
                           ["paypal-cert-url", "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-ad47cb8d"],
                           ["paypal-transmission-sig", base64.b64encode(rsa_sign(private, text.encode())).decode()]]


def plivo(request):
    url, _, query = request["url"].partition("?")
    pairs = lambda text: sorted(urllib.parse.parse_qsl(text, keep_blank_values=True))
    form = "".join(k + v for k, v in pairs(request["body"]))
    query = "&".join(f"{k}={v}" for k, v in pairs(query))
    text = url + ("?" if query or form else "") + query + ("." if query and form else "") + form + ".12345678901234567890"
    tag = hmac.new(request["secret"].encode(), text.encode(), "sha256").digest()
    request["headers"] += [["content-type", "application/x-www-form-urlencoded"], ["x-plivo-signature-v3-nonce", "12345678901234567890"],
                           ["x-plivo-signature-v3", base64.b64encode(tag).decode()]]


def contentful(request):
    signed = {"x-contentful-signed-headers": "x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic", "x-contentful-timestamp": str(NOW * 1000)}
    headers = dict(request["headers"])
    signed["x-contentful-topic"] = headers.get("x-contentful-topic", "ContentManagement.Entry.publish")
    path = "/" + request["url"].split("/", 3)[3]
    text = "\n".join(["POST", path, ";".join(f"{k}:{signed[k]}" for k in sorted(signed)), request["body"]])
    signed["x-contentful-signature"] = hmac.new(request["secret"].encode(), text.encode(), "sha256").hexdigest()
    headers |= signed
    request["headers"] = [[k, v] for k, v in headers.items()]


def braintree(request):
    request["secret"] = "integration_public_key:integration_private_key"
    public_key, private_key = request["secret"].split(":")
    payload = base64.encodebytes(request["body"].encode()).decode()
    tag = hmac.new(hashlib.sha1(private_key.encode()).digest(), payload.encode(), "sha1").hexdigest()
    request["body"] = urllib.parse.urlencode({"bt_signature": f"{public_key}|{tag}", "bt_payload": payload})
    request["headers"].append(["content-type", "application/x-www-form-urlencoded"])


def coded(preset, scheme):
    body, headers = sample(preset)
    request = {"headers": headers, "body": body, "url": URL, "secret": secret_for({})}
    algorithm = scheme["algorithm"]
    if algorithm == "jws":
        jws(scheme, request)
    else:
        {"aws-sns": sns, "paypal": paypal, "plivo-v3": plivo, "contentful": contentful, "braintree": braintree}[algorithm](request)
    return request


def quoted(text):
    if "'" not in text and "\n" not in text and ("\\" in text or '"' in text):
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False)


def write(path, scheme, first, request):
    lines = ["", "[[vector]]", 'about = "made from the documented scheme"']
    if not first:
        lines.append(f"scheme = {quoted(scheme.get('name', 'main'))}")
    lines.append(f"secret = {quoted(request['secret'])}")
    if "timestamp" in scheme or scheme.get("algorithm") in CODE:
        lines.append(f"now = {NOW}")
    if "fetched" in request:
        lines.append(f"fetched = {quoted(request['fetched'])}")
    if "{url}" in scheme.get("signed", "") or "in_query" in scheme or scheme.get("algorithm") in CODE:
        lines.append(f"url = {quoted(request['url'])}")
    headers = ", ".join(f"[{quoted(n)}, {quoted(v)}]" for n, v in request["headers"])
    lines += [f"headers = [{headers}]", f"body = {quoted(request['body'])}", "valid = true", 'origin = "synthetic"']
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")


def check(preset, scheme, vector):
    """Whether the vector's signature is what the file's scheme makes of its other parts."""
    algorithm = scheme.get("algorithm", "hmac-sha256")
    if algorithm in CODE or algorithm in ("ed25519", "ecdsa-p256", "rsa-sha256", "rsa-sha512", "token", "basic"):
        return None
    headers = {name.lower(): value.strip() for name, value in vector["headers"]}
    values = [headers[n] for n in names(scheme) if n in headers]
    if "header_numbered" in scheme:
        values = [v for n, v in headers.items() if n.startswith(scheme["header_numbered"].split("{n}")[0])]
    if "in_json" in scheme:
        values = [json_at(vector["body"], scheme["in_json"])]
    found = False
    for value in values:
        for group in value.split(scheme["groups"]) if "groups" in scheme else [value]:
            items = [i.strip() for i in group.split(scheme["list"])] if "list" in scheme else [group]
            tags, signatures, time = {}, [], None
            rule = scheme.get("timestamp", {})
            if rule.get("first"):
                time = items.pop(0)
            for item in items:
                if "tags" in scheme:
                    tag, _, rest = item.partition(scheme["tag_separator"])
                    if tag in scheme["tags"] or scheme["tags"] == ["*"]:
                        signatures.append(rest)
                    else:
                        tags[tag] = rest
                else:
                    signatures.append(item)
            if "header" in rule:
                time = headers[rule["header"]]
            elif "tag" in rule:
                time = tags[rule["tag"]]
            elif "json" in rule:
                time = json_at(vector["body"], rule["json"])
            request = {"url": vector.get("url", URL), "method": vector.get("method", "POST"), **vector}
            expected = encode(scheme, mac(scheme, request, fill(scheme, request, time, tags)))
            prefix = scheme.get("prefix", "")
            for signature in signatures:
                if prefix and signature.lower().startswith(prefix.lower()):
                    signature = signature[len(prefix):]
                same = signature.lower() == expected if scheme.get("encoding", "hex").startswith("hex") else signature.rstrip("=") == expected.rstrip("=")
                if scheme.get("encoding") == "hex-or-base64" and not same:
                    other = base64.b64encode(bytes.fromhex(expected)).decode()
                    same = signature.rstrip("=") == other.rstrip("=")
                found |= same
    return found


def main():
    verb, *wanted = sys.argv[1:] or ["check"]
    made = checked = wrong = 0
    for path in sorted(FOLDER.glob("*.toml")):
        if wanted and path.stem not in wanted:
            continue
        preset = tomllib.loads(path.read_text())
        schemes = preset.get("scheme", [])
        for at, scheme in enumerate(schemes):
            name = scheme.get("name", "main")
            own = [v for v in preset.get("vector", []) if v.get("scheme", schemes[0].get("name", "main")) == name and v["valid"]]
            if verb == "make" and not own:
                request = coded(preset, scheme) if scheme.get("algorithm", "") in CODE else make(preset, scheme)
                if request is None:
                    print(f"{path.stem}: {name}: put {{signature}} into a sample", file=sys.stderr)
                    continue
                write(path, scheme, at == 0, request)
                made += 1
            elif verb == "check":
                for vector in own:
                    verdict = check(preset, scheme, vector)
                    checked += verdict is not None
                    if verdict is False:
                        wrong += 1
                        print(f"{path.stem}: {name}: {vector['about']}: not what the scheme makes")
    print(f"{made} made, {checked} checked, {wrong} wrong")
    sys.exit(wrong > 0)


main()
