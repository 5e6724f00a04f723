//! Why a scheme that is made of parts refuses a request: the check itself is tried with one or two things about it changed.

use super::{Difference, Explained, NamedSecret, body, key};
use crate::event::Timestamp;
use crate::provider::composed::{Composed, Source};
use crate::provider::encoding::{Encoding, Prefix};
use crate::provider::key::{Algorithm, KeyForm};
use crate::provider::place;
use crate::provider::request::Request;
use crate::provider::scheme::{Rule, Scheme};
use crate::provider::signature::LiveKey;
use crate::provider::template::{self, Part, Value};
use crate::provider::timestamp::{TimeUnit, TimestampRule, TimestampSource};
use crate::secret::SecretText;

/// Bodies over this are tried with one change at a time.
const COMBINED_BODY_BYTES_MAX: usize = 64 * 1024;

/// The fewest changes under which `scheme` takes the request.
pub(super) fn explain(
    scheme: &Scheme,
    request: &Request<'_>,
    candidates: &[NamedSecret],
    now: Timestamp,
) -> Option<Explained> {
    let schemes = schemes(scheme, request, now);
    let urls = urls(scheme, request);
    let bodies = body::variants(&Default::default(), request.body);
    let mut best: Option<Explained> = None;
    for candidate in candidates {
        for (text, of_text) in key::texts(candidate.text.expose()) {
            let text = SecretText::new(text.to_vec());
            for (scheme, of_scheme) in &schemes {
                let Ok(key) = scheme.key(&text) else { continue };
                let keys = [LiveKey {
                    name: candidate.name.clone(),
                    key,
                    until: None,
                }];
                for (url, of_url) in &urls {
                    for variant in &bodies {
                        let mut differences: Vec<Difference> = of_scheme.clone();
                        differences.extend(of_text.clone());
                        differences.extend(of_url.clone());
                        differences.extend(variant.difference.clone());
                        let most = if request.body.len() > COMBINED_BODY_BYTES_MAX {
                            1
                        } else {
                            2
                        };
                        let known = best.as_ref().map_or(usize::MAX, |(_, _, known)| known.len());
                        if differences.len() > most
                            || differences.len() + of_secret(candidate, now).len() >= known
                        {
                            continue;
                        }
                        let changed = Request {
                            public_url: url.as_deref().or(request.public_url),
                            body: &variant.bytes,
                            ..*request
                        };
                        if !takes(scheme, &keys, &changed, now) {
                            continue;
                        }
                        let mut all = of_secret(candidate, now);
                        all.extend(differences);
                        best = Some((candidate.name.clone(), carried(scheme), all));
                    }
                }
            }
        }
    }
    best.filter(|(_, _, differences)| !differences.is_empty())
}

fn takes(scheme: &Scheme, keys: &[LiveKey], request: &Request<'_>, now: Timestamp) -> bool {
    let claim = scheme.claim(request);
    claim.is_ok_and(|claim| scheme.check(&claim, keys, now, request, None).is_ok())
}

fn carried(scheme: &Scheme) -> Box<str> {
    let headers = scheme.headers();
    headers.first().map_or("the body", |name| name).into()
}

fn of_secret(candidate: &NamedSecret, now: Timestamp) -> Vec<Difference> {
    let mut differences = Vec::new();
    if !candidate.of_route {
        differences.push(Difference::OtherRoute);
    }
    if let Some(until) = candidate.until.filter(|until| now >= *until) {
        differences.push(Difference::Expired(until));
    }
    differences
}

/// The scheme, and what it is often taken for.
fn schemes(scheme: &Scheme, request: &Request<'_>, now: Timestamp) -> Vec<(Scheme, Vec<Difference>)> {
    let Rule::Composed(rule) = &scheme.rule else {
        return vec![(scheme.clone(), Vec::new())];
    };
    let bases = with_other_times(scheme, rule, request, now);
    let mut all = bases.clone();
    let mut add = |change: &dyn Fn(&mut Composed), difference: Difference| {
        for (base, known) in &bases {
            let mut changed = base.clone();
            let Rule::Composed(rule) = &mut changed.rule else {
                continue;
            };
            change(rule);
            let mut differences = known.clone();
            differences.push(difference.clone());
            all.push((changed, differences));
        }
    };
    if !rule.require_headers.is_empty() {
        add(&|rule| rule.require_headers.clear(), Difference::RequiredHeader);
    }
    let is_mac = matches!(
        rule.algorithm,
        Algorithm::HmacSha256 | Algorithm::HmacSha1 | Algorithm::HmacSha512
    );
    if is_mac {
        for (form, words) in [
            (KeyForm::Utf8, "the secret's text as it is"),
            (KeyForm::Hex, "the secret decoded from hex"),
            (KeyForm::Base64, "the secret decoded from base64"),
            (KeyForm::Whsec, "what follows `whsec_`, decoded from base64"),
        ] {
            if form != rule.key {
                add(&|rule| rule.key = form, Difference::SecretForm(words));
            }
        }
        for algorithm in [Algorithm::HmacSha256, Algorithm::HmacSha1, Algorithm::HmacSha512] {
            if algorithm != rule.algorithm {
                add(
                    &|rule| rule.algorithm = algorithm,
                    Difference::Algorithm(algorithm.name()),
                );
            }
        }
    }
    if !rule.algorithm.sends_secret() {
        for encoding in [Encoding::Hex, Encoding::Base64, Encoding::Base64Url] {
            if encoding != rule.encoding {
                add(
                    &|rule| rule.encoding = encoding,
                    Difference::Encoding(encoding.name()),
                );
            }
        }
        for (text, what) in [
            ("{body}", "the body alone"),
            ("{timestamp}.{body}", "the time, `.` and the body"),
            ("{timestamp}:{body}", "the time, `:` and the body"),
            ("{timestamp}{body}", "the time and the body"),
            ("{body}{timestamp}", "the body and the time"),
            ("v0:{timestamp}:{body}", "`v0:`, the time, `:` and the body"),
        ] {
            let Ok(signed) = template::parse(text) else {
                continue;
            };
            let has_time = rule.timestamp.is_some() || !text.contains("timestamp");
            if signed != rule.signed && has_time {
                add(
                    &|rule| rule.signed.clone_from(&signed),
                    Difference::BodyWith(what.into()),
                );
            }
        }
    }
    match &rule.prefix {
        Prefix::Required(prefix) => add(
            &|rule| rule.prefix = Prefix::None,
            Difference::PrefixMissing(prefix.clone()),
        ),
        Prefix::None if rule.list.is_none() => add(
            &|rule| rule.prefix = Prefix::Required("sha256=".into()),
            Difference::PrefixOther(None),
        ),
        Prefix::None | Prefix::Optional(_) => {}
    }
    for header in others(rule, request) {
        let read = scheme.headers().iter().map(|name| (**name).into()).collect();
        let found: Box<str> = header.as_str().into();
        let names = vec![found.clone()];
        add(
            &|rule| {
                rule.source = Source::Headers {
                    names: names.clone(),
                    any: false,
                    repeated: false,
                };
            },
            Difference::OtherHeader { found, read },
        );
    }
    all
}

/// Headers that may hold the signature, by their names.
fn others(rule: &Composed, request: &Request<'_>) -> Vec<String> {
    let own = rule.headers();
    let named = request
        .headers
        .iter()
        .map(|(name, _)| String::from_utf8_lossy(name).to_ascii_lowercase());
    named
        .filter(|name| {
            ["sig", "hmac", "hash", "token", "authorization"]
                .iter()
                .any(|word| name.contains(word))
        })
        .filter(|name| !own.iter().any(|known| **known == **name))
        .take(4)
        .collect()
}

/// The scheme as it is, with the time in another unit, and with a time that is too far away.
fn with_other_times(
    scheme: &Scheme,
    rule: &Composed,
    request: &Request<'_>,
    now: Timestamp,
) -> Vec<(Scheme, Vec<Difference>)> {
    let mut bases = vec![(scheme.clone(), Vec::new())];
    let (Some(time), Some(text)) = (&rule.timestamp, time_text(rule, request)) else {
        return bases;
    };
    let off = |unit: TimeUnit| Some(unit.parse(&text)?.0.abs_diff(now.0));
    let read = off(time.unit);
    for unit in [TimeUnit::Seconds, TimeUnit::Millis, TimeUnit::Iso8601] {
        // Seconds can be read as milliseconds, of 1970.
        let nearer = off(unit).is_some_and(|other| read.is_none_or(|read| other < read));
        if unit != time.unit && nearer {
            let difference = Difference::TimeUnit {
                place: time_place(&time.source),
                wanted: time.unit,
                found: unit,
            };
            let changed = with_time(scheme, &|time| time.unit = unit);
            bases.push((changed, vec![difference]));
        }
    }
    let mut late = Vec::new();
    for (base, known) in &bases {
        let Rule::Composed(rule) = &base.rule else {
            continue;
        };
        let sent = (rule.timestamp.as_ref()).and_then(|time| time.unit.parse(&text));
        if let Some(sent) = sent
            && time.enforce
            && u128::from(sent.0.abs_diff(now.0)) > time.tolerance.as_millis()
        {
            let mut differences = known.clone();
            differences.push(Difference::Stale {
                secs: (now.0 - sent.0) / 1000,
                allowed_secs: time.tolerance.as_secs(),
            });
            late.push((with_time(base, &|time| time.enforce = false), differences));
        }
    }
    bases.extend(late);
    bases
}

fn with_time(scheme: &Scheme, change: &dyn Fn(&mut TimestampRule)) -> Scheme {
    let mut changed = scheme.clone();
    if let Rule::Composed(rule) = &mut changed.rule
        && let Some(time) = &mut rule.timestamp
    {
        change(time);
    }
    changed
}

/// Where the signed time stands, for people.
fn time_place(source: &TimestampSource) -> Box<str> {
    match source {
        TimestampSource::Header(name) => format!("`{name}`").into(),
        TimestampSource::Tag(tag) => format!("`{tag}` of the signature header").into(),
        TimestampSource::First => "the first item of the signature header".into(),
        TimestampSource::Json(tokens) => format!("`{}` of the body", place::pointer_text(tokens)).into(),
    }
}

/// The signed time as it was sent.
fn time_text(rule: &Composed, request: &Request<'_>) -> Option<String> {
    let time = rule.timestamp.as_ref()?;
    match &time.source {
        TimestampSource::Header(name) => Some(
            String::from_utf8_lossy(request.headers.first(name)?)
                .trim()
                .to_owned(),
        ),
        TimestampSource::Json(tokens) => place::json_text(request.body, tokens),
        TimestampSource::Tag(_) | TimestampSource::First => {
            let list = rule.list.as_ref()?;
            let name = rule.headers().first()?.to_string();
            let value = String::from_utf8_lossy(request.headers.first(&name)?).into_owned();
            let group = match &list.groups {
                Some(between) => value.split(&**between).next()?,
                None => &*value,
            };
            let mut items = group.split(list.separator.as_deref()?).map(str::trim);
            match &time.source {
                TimestampSource::Tag(tag) => {
                    let (between, _) = list.tags.as_ref()?;
                    let start = format!("{tag}{between}");
                    Some(items.find_map(|item| item.strip_prefix(&start))?.to_owned())
                }
                _ => Some(items.next()?.to_owned()),
            }
        }
    }
}

/// What of the signed things besides the body was not sent, or cannot be read.
pub(super) fn lacking(rule: &Composed, request: &Request<'_>) -> Option<String> {
    if rule.needs_url() && request.public_url.is_none() {
        return Some("the URL is signed too: give it with --public-url URL".to_owned());
    }
    if let Some(time) = &rule.timestamp {
        let place = time_place(&time.source);
        match time_text(rule, request) {
            None => return Some(format!("the time in {place} is signed too, and is missing")),
            Some(text) if time.unit.parse(&text).is_none() => {
                let (wanted, mut others) = (
                    time.unit.words(),
                    [TimeUnit::Seconds, TimeUnit::Millis, TimeUnit::Iso8601].into_iter(),
                );
                let found = others.find(|unit| unit.parse(&text).is_some());
                let found = found.map_or_else(String::new, |unit| format!(", but {}", unit.words()));
                return Some(format!("the time in {place} is not {wanted}{found}"));
            }
            Some(_) => {}
        }
    }
    let mut values = rule.signed.iter().filter_map(Part::value);
    values.find_map(|value| match value {
        Value::Header(name) if request.header(name).is_none() => Some(format!(
            "the header `{name}` is signed too, and is missing or there more than once"
        )),
        _ => None,
    })
}

/// The URL that the route states, and others under which the sender may know it.
fn urls(scheme: &Scheme, request: &Request<'_>) -> Vec<(Option<String>, Option<Difference>)> {
    let mut all = vec![(None, None)];
    if !scheme.needs_url() {
        return all;
    }
    let mut found: Vec<String> = Vec::new();
    if let Some(url) = request.public_url {
        found.push(match url.strip_suffix('/') {
            Some(bare) => bare.to_owned(),
            None => format!("{url}/"),
        });
        match url.split_once("://") {
            Some(("https", rest)) => found.push(format!("http://{rest}")),
            Some((_, rest)) => found.push(format!("https://{rest}")),
            None => {}
        }
    }
    let host = request
        .headers
        .first("x-forwarded-host")
        .or(request.headers.first("host"));
    if let (Some(host), Some(path)) = (host, path(request)) {
        let host = String::from_utf8_lossy(host);
        found.push(format!("https://{host}{path}"));
        found.push(format!("http://{host}{path}"));
    }
    for url in found {
        let difference = Difference::Url(url.as_str().into());
        all.push((Some(url), Some(difference)));
    }
    all
}

/// The path of the URL that the route states.
fn path<'r>(request: &Request<'r>) -> Option<&'r str> {
    let (_, rest) = request.public_url?.split_once("://")?;
    rest.find('/').and_then(|at| rest.get(at..))
}
