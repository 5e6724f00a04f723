use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ManualClock;
use crate::event::Timestamp;

const SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}"#;

/// Answers with the text it holds, and counts.
#[derive(Debug)]
struct Counted {
    answer: Mutex<Result<Bytes, String>>,
    fetches: AtomicUsize,
}

#[async_trait]
impl Fetch for Counted {
    async fn fetch(&self, _: &str) -> Result<Bytes, String> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        // Whoever comes meanwhile waits for this one.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.answer.lock().unwrap().clone()
    }
}

fn cache(answer: Result<&str, &str>) -> (Arc<Counted>, KeyCache) {
    let counted = Arc::new(Counted {
        answer: Mutex::new(owned(answer)),
        fetches: AtomicUsize::new(0),
    });
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    (counted.clone(), KeyCache::new(counted, clock))
}

fn owned(answer: Result<&str, &str>) -> Result<Bytes, String> {
    answer
        .map(|text| Bytes::copy_from_slice(text.as_bytes()))
        .map_err(str::to_owned)
}

fn set(number: usize) -> Need {
    Need::KeySet {
        url: format!("https://keys.example.com/{number}").into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_is_fetched_once_for_all_who_ask_and_again_when_it_is_old() {
    let (counted, keys) = cache(Ok(SET));
    let fetches = || counted.fetches.load(Ordering::SeqCst);
    let need = set(1);
    let (a, b, c) = tokio::join!(keys.get(&need), keys.get(&need), keys.get(&need));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(fetches(), 1);
    tokio::time::advance(FRESH - Duration::from_secs(1)).await;
    assert!(keys.get(&need).await.is_ok());
    assert_eq!(fetches(), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(keys.get(&need).await.is_ok());
    assert_eq!(fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_makes_it_fetch_again_but_not_at_once() {
    let (counted, keys) = cache(Ok(SET));
    let fetches = || counted.fetches.load(Ordering::SeqCst);
    assert!(keys.get(&set(1)).await.is_ok());
    for _ in 0..100 {
        assert!(keys.renew(&set(1)).await.is_ok());
    }
    assert_eq!(fetches(), 1, "anybody can send a token of an unknown key");
    tokio::time::advance(PAUSE).await;
    assert!(keys.renew(&set(1)).await.is_ok());
    assert_eq!(fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_used_while_its_place_is_down_and_a_day_at_most() {
    let (counted, keys) = cache(Ok(SET));
    let fetches = || counted.fetches.load(Ordering::SeqCst);
    assert!(keys.get(&set(1)).await.is_ok());
    *counted.answer.lock().unwrap() = owned(Err("down"));
    tokio::time::advance(FRESH).await;
    assert!(keys.get(&set(1)).await.is_ok());
    assert!(keys.get(&set(1)).await.is_ok());
    assert_eq!(fetches(), 2, "a failed fetch is not tried again at once");
    tokio::time::advance(STALE).await;
    let error = keys.get(&set(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "https://keys.example.com/1 could not be fetched: down"
    );
    let error = keys.get(&set(1)).await.unwrap_err();
    assert!(matches!(error, KeysError::Paused { .. }), "{error}");
}

fn certificate(number: usize) -> Need {
    Need::Certificate {
        url: format!("https://certs.example.com/{number}").into(),
        names: vec!["certs.example.com".into()],
    }
}

#[tokio::test(start_paused = true)]
async fn made_up_places_are_bounded_in_number_and_rate() {
    let (counted, keys) = cache(Err("404"));
    let mut crowded = 0;
    for number in 0..1_000 {
        let error = keys.get(&certificate(number)).await.unwrap_err();
        crowded += usize::from(error == KeysError::Crowded);
    }
    let fetches = counted.fetches.load(Ordering::SeqCst);
    // A thousand requests took some 10 s of this clock, at one fetch a second and 20 at once.
    assert!(fetches <= 60, "{fetches}");
    assert!(crowded > 900, "{crowded}");
    assert!(keys.lock().len() <= PLACES_MAX);
    *counted.answer.lock().unwrap() = owned(Ok(SET));
    assert!(
        keys.get(&set(1)).await.is_ok(),
        "no request makes up what the configuration names"
    );
    tokio::time::advance(PAUSE).await;
    // The rate is one of the real clock.
    std::thread::sleep(Duration::from_millis(1_100));
    let error = keys.get(&certificate(5_000)).await.unwrap_err();
    assert!(
        matches!(error, KeysError::Unusable { .. }),
        "a genuine one has its turn: {error}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_set_is_refused() {
    for text in ["", "{}", "<html>", r#"{"keys":[]}"#] {
        let (_, keys) = cache(Ok(text));
        let error = keys.get(&set(1)).await.unwrap_err();
        assert!(matches!(error, KeysError::Unusable { .. }), "{text}: {error}");
    }
}

#[tokio::test]
async fn only_https_is_fetched() {
    let https = Https::new(Client::new(Duration::ZERO, 0));
    let error = https.fetch("http://127.0.0.1:1/keys").await.unwrap_err();
    assert_eq!(error, "it is not https");
}

#[tokio::test(start_paused = true)]
async fn who_has_its_key_does_not_wait_for_a_fetch_that_another_needs() {
    let (counted, keys) = cache(Ok(SET));
    assert!(keys.get(&set(1)).await.is_ok());
    tokio::time::advance(PAUSE).await;
    let need = set(1);
    let renewed = keys.renew(&need);
    tokio::pin!(renewed);
    assert!(futures_pending(&mut renewed).await, "it is being fetched");
    assert!(
        tokio::time::timeout(Duration::from_millis(1), keys.get(&need))
            .await
            .unwrap()
            .is_ok()
    );
    assert!(renewed.await.is_ok());
    assert_eq!(counted.fetches.load(Ordering::SeqCst), 2);
}

/// Whether a future has begun and is not ready.
async fn futures_pending(future: &mut (impl Future<Output = Result<Fetched, KeysError>> + Unpin)) -> bool {
    tokio::select! {
        biased;
        _ = future => false,
        () = std::future::ready(()) => true,
    }
}
