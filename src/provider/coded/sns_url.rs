//! Which addresses of a message may be fetched: those of Amazon SNS alone.

const CERTIFICATE_PATH: &str = "/SimpleNotificationService-";

/// Whether `url` is `https://sns.<region>.amazonaws.com[.cn]/SimpleNotificationService-<hex>.pem`.
pub(super) fn is_certificate_url(url: &str) -> bool {
    let file = rest_of(url).and_then(|rest| rest.strip_prefix(CERTIFICATE_PATH)?.strip_suffix(".pem"));
    file.is_some_and(|hex| (1..=64).contains(&hex.len()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether a GET of `url` confirms a subscription and does nothing else.
pub(super) fn is_subscribe_url(url: &str) -> bool {
    let Some(query) = rest_of(url).and_then(|rest| rest.strip_prefix("/?")) else {
        return false;
    };
    let plain = query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let mut actions = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "Action");
    let confirms = actions
        .next()
        .is_some_and(|(_, action)| action == "ConfirmSubscription");
    plain && confirms && actions.next().is_none()
}

/// What follows the host, if it is one of SNS. The host is everything up to the first slash, so a user, a port or a
/// host in other letters never passes.
fn rest_of(url: &str) -> Option<&str> {
    region(url)?;
    let after = url.strip_prefix("https://")?;
    after.get(after.find('/')?..)
}

/// The region and the suffix of the host, if it is one of SNS.
pub(super) fn region(url: &str) -> Option<(&str, &'static str)> {
    region_of(host_of(url)?)
}

fn host_of(url: &str) -> Option<&str> {
    url.strip_prefix("https://")?
        .split_once('/')
        .map(|(host, _)| host)
}

/// The region of `sns.<region>.amazonaws.com`, and the suffix.
///
/// A region is words of letters, then digits (`us-gov-west-1`). A looser rule would let in
/// `sns.s3-us-west-2.amazonaws.com`, which is the bucket `sns` of whoever owns it.
fn region_of(host: &str) -> Option<(&str, &'static str)> {
    let (region, rest) = host.strip_prefix("sns.")?.split_once('.')?;
    let suffix = ["amazonaws.com", "amazonaws.com.cn"]
        .into_iter()
        .find(|suffix| *suffix == rest)?;
    let (words, number) = region.rsplit_once('-')?;
    let letters = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let good = region.len() <= 32
        && words.contains('-')
        && words.split('-').all(letters)
        && (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit());
    good.then_some((region, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_certificates() {
        let good = "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0f.pem";
        assert!(is_certificate_url(good));
        for (host, allowed) in [
            ("sns.eu-central-1.amazonaws.com", true),
            ("sns.us-gov-west-1.amazonaws.com", true),
            ("sns.cn-north-1.amazonaws.com.cn", true),
            ("sns.amazonaws.com", false),
            ("sns.s3.amazonaws.com", false),
            ("sns.s3-us-west-2.amazonaws.com", false),
            ("sns.us-west-2.s3.amazonaws.com", false),
            ("sns.us-west-2.amazonaws.com.evil.example", false),
            ("sns.us-west-2.amazonaws.com.cn.cn", false),
            ("sns.us-west-2.amazonaws.com.", false),
            ("sns.us-west-2.amazonaws.com:443", false),
            ("user@sns.us-west-2.amazonaws.com", false),
            ("evil.example#sns.us-west-2.amazonaws.com", false),
            ("evil.example\\.sns.us-west-2.amazonaws.com", false),
            ("sns.us--2.amazonaws.com", false),
            ("sns.west-2.amazonaws.com", false),
            ("sns.us-west-222.amazonaws.com", false),
            ("SNS.us-west-2.amazonaws.com", false),
            ("xsns.us-west-2.amazonaws.com", false),
        ] {
            let url = good.replace("sns.us-west-2.amazonaws.com", host);
            assert_eq!(is_certificate_url(&url), allowed, "{url}");
        }
        for path in [
            "",
            "/",
            "/0f.pem",
            "/SimpleNotificationService-.pem",
            "/SimpleNotificationService-0g.pem",
        ] {
            assert!(
                !is_certificate_url(&format!("https://sns.us-west-2.amazonaws.com{path}")),
                "{path}"
            );
        }
        for url in [
            good.replace("https", "http"),
            good.replace("https", "HTTPS"),
            format!("{good}?a"),
            format!("{good}#a"),
            good.replace("0f.pem", "../0f.pem"),
        ] {
            assert!(!is_certificate_url(&url), "{url}");
        }
    }

    #[test]
    fn addresses_of_subscriptions() {
        let base = "https://sns.us-west-2.amazonaws.com";
        for (rest, allowed) in [
            ("/?Action=ConfirmSubscription&Token=1", true),
            ("/?Token=1&Action=ConfirmSubscription", true),
            ("/?Action=DeleteTopic", false),
            ("/?Action=DeleteTopic&Action=ConfirmSubscription", false),
            ("/?Action=ConfirmSubscription&Action=DeleteTopic", false),
            ("/?Action=ConfirmSubscription#a", false),
            ("/?Action=ConfirmSubscription&a=\r\n", false),
            ("/a?Action=ConfirmSubscription", false),
            ("?Action=ConfirmSubscription", false),
            ("/", false),
        ] {
            assert_eq!(is_subscribe_url(&format!("{base}{rest}")), allowed, "{rest}");
        }
        assert!(!is_subscribe_url(
            "https://evil.example/?Action=ConfirmSubscription"
        ));
    }
}
