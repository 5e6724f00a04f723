# The checks of the providers' own pages in Python, as they stand there: Quantiv ("Webhooks", Python (Flask)) and
# Iverton AI ("Verifying Webhooks", Python). Lines in: provider, secret, body, value, the last three in hex. Lines out: 1 or 0.
import hashlib
import hmac
import sys


def quantiv(payload, signature, secret):
    try:
        clean_signature = signature.replace('sha256=', '')
        expected_signature = hmac.new(
            secret.encode('utf-8'),
            payload.encode('utf-8'),
            hashlib.sha256
        ).hexdigest()
        return hmac.compare_digest(clean_signature, expected_signature)
    except Exception:
        return False


def iverton(payload, signature, secret):
    expected = hmac.new(
        secret.encode(),
        payload.encode(),
        hashlib.sha256
    ).hexdigest()

    return hmac.compare_digest(
        signature,
        f"sha256={expected}"
    )


for line in sys.stdin:
    provider, secret, body, value = line.rstrip('\n').split('\t')
    secret, body = (bytes.fromhex(text).decode('utf-8') for text in (secret, body))
    # As header values reach a Python app.
    value = bytes.fromhex(value).decode('latin-1')
    try:
        good = {'quantiv': quantiv, 'iverton': iverton}[provider](body, value, secret)
    except TypeError:
        # compare_digest takes no text outside ASCII: the page's code answers 500.
        good = False
    print(1 if good else 0)
