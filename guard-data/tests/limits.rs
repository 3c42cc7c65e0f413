//! T-53: waits, rates and budgets, with a clock that stands still.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::Duration;

use guard_data::testing::{PausedClock, ScriptedChat};
use guard_data::{
    Budgeted, ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, Clock, Cost, Ledger,
    LedgerError, MemoryLedger, Message, Prices, RateLimit, RateLimited, RetryPolicy, Retrying,
    Role, TokenCount, TransportFault,
};

fn request() -> ChatRequest {
    let mut request = ChatRequest::new("m", vec![Message::new(Role::User, "x".repeat(20))]);
    request.max_tokens = Some(100);
    // 20 bytes, 16 for the message and 64 for the whole.
    assert_eq!(request.most_prompt_tokens(), 100);
    request
}

fn fine() -> ChatReply {
    ChatReply::new("fine", ChatFinish::Stop)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

const DOWN: ChatError = ChatError::Unavailable { status: 503, retry_after: None };

/// The waits before an error is given up.
fn waits(policy: RetryPolicy, seed: u64, error: &ChatError) -> (Vec<Duration>, usize) {
    let clock = PausedClock::default();
    let chat = ScriptedChat::new(|_| Err(error.clone()));
    let client = Retrying::with_clock(chat, policy, seed, clock.clone());
    assert_eq!(client.chat(&request()).as_ref(), Err(error));
    assert_eq!(client.retries(), clock.sleeps().len() as u64);
    (clock.sleeps(), client.into_inner().requests().len())
}

#[test]
fn fault_t53_waits_grow_have_jitter_and_keep_their_cap() {
    let policy = RetryPolicy::default()
        .with_attempts(9)
        .with_waits(seconds(1), seconds(20))
        .with_deadline(seconds(10_000));
    let caps = [1, 2, 4, 8, 16, 20, 20, 20];
    let mut all = Vec::new();
    for seed in 0..200 {
        let (waits, attempts) = waits(policy, seed, &DOWN);
        assert_eq!((waits.len(), attempts), (8, 9));
        for (wait, cap) in waits.iter().zip(caps) {
            assert!(*wait <= seconds(cap));
        }
        all.push(waits);
    }
    for (place, cap) in caps.into_iter().enumerate() {
        let mean = all.iter().map(|waits| waits[place].as_secs_f64()).sum::<f64>() / 200.0;
        // Uniform from 0 to the cap: the mean of 200 is within five deviations of its half.
        let deviation = cap as f64 / 12_f64.sqrt() / 200_f64.sqrt();
        assert!((mean - cap as f64 / 2.0).abs() < 5.0 * deviation, "{place}: {mean}");
    }
    assert_eq!(waits(policy, 1, &DOWN), waits(policy, 1, &DOWN), "the same seed");
}

#[test]
fn fault_t53_a_service_is_waited_for_as_it_asks_up_to_a_cap() {
    let asked = |time| ChatError::RateLimited { retry_after: Some(time) };
    let policy = RetryPolicy::default().with_attempts(2).with_retry_after_cap(seconds(30));
    for (time, least) in [(seconds(7), 7), (seconds(86_400), 30), (Duration::MAX, 30)] {
        let (waits, _) = waits(policy, 3, &asked(time));
        assert!(waits[0] >= seconds(least) && waits[0] <= seconds(least + 1), "{waits:?}");
    }
}

#[test]
fn fault_t53_no_attempt_begins_after_the_deadline() {
    let policy = RetryPolicy::default().with_attempts(100).with_deadline(seconds(90));
    for seed in 0..50 {
        let (waits, _) = waits(policy, seed, &DOWN);
        assert!(waits.iter().sum::<Duration>() <= seconds(90));
        assert!(waits.len() >= 3);
    }
}

#[test]
fn only_what_passes_is_tried_again() {
    let policy = RetryPolicy::default();
    let lasting = [
        ChatError::Unauthorised { status: 401 },
        ChatError::Refused { status: 400 },
        ChatError::QuotaExhausted,
        ChatError::Budget(LedgerError::CapReached),
    ];
    for error in lasting {
        assert_eq!(waits(policy, 1, &error), (vec![], 1));
    }
    let passing = [TransportFault::Connect, TransportFault::Timeout, TransportFault::Cut];
    for fault in passing {
        assert_eq!(waits(policy, 1, &ChatError::Transport(fault)).1, 6);
    }
}

/// Asks 120 times, checks each minute, and says how long it took.
fn check_minutes(limit: RateLimit, usage: Option<TokenCount>) -> Duration {
    let clock = PausedClock::default();
    let calls = Mutex::new(Vec::new());
    let chat = ScriptedChat::new(|_| {
        calls.lock().unwrap().push(clock.now());
        match usage {
            Some(usage) => Ok(fine().with_usage(usage)),
            None => Err(DOWN),
        }
    });
    let client = RateLimited::with_clock(chat, limit, clock.clone());
    for _ in 0..120 {
        let _ = client.chat(&request());
    }
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 120);
    let taken = usage.map_or(200, |usage| usage.prompt + usage.completion);
    for start in &calls {
        let in_minute =
            calls.iter().filter(|at| *at >= start && **at < *start + seconds(60)).count() as u64;
        assert!(in_minute <= limit.requests_per_minute.unwrap_or(u64::MAX));
        // The newest call counts with the most that it can take: 200.
        let most = limit.tokens_per_minute.unwrap_or(u64::MAX).max(200);
        assert!((in_minute - 1) * taken + 200 <= most.saturating_add(taken), "{in_minute}");
        assert!(in_minute * taken <= most);
    }
    clock.now()
}

#[test]
fn fault_t53_no_minute_has_more_than_the_limits() {
    let requests = RateLimit { requests_per_minute: Some(7), tokens_per_minute: None };
    let tokens = RateLimit { requests_per_minute: None, tokens_per_minute: Some(1000) };
    let both = RateLimit { requests_per_minute: Some(4), tokens_per_minute: Some(1000) };
    let used = Some(TokenCount { prompt: 60, completion: 20 });
    // 120 requests, 7 a minute: the last begins in minute 17.
    assert_eq!(check_minutes(requests, used), seconds(17 * 60));
    check_minutes(tokens, used);
    check_minutes(both, used);
    // Failed calls count, and with all that they could have taken: 5 of 200 a minute.
    assert_eq!(check_minutes(tokens, None), seconds(23 * 60));
    // What a hostile service counts does no harm.
    let endless = TokenCount { prompt: u64::MAX, completion: u64::MAX };
    let limit = RateLimit { requests_per_minute: None, tokens_per_minute: Some(u64::MAX) };
    let client = RateLimited::with_clock(
        ScriptedChat::new(|_| Ok(fine().with_usage(endless))),
        limit,
        PausedClock::default(),
    );
    assert!((0..3).all(|_| client.chat(&request()).is_ok()));
    // One that is larger than the limit goes alone.
    let small = RateLimit { requests_per_minute: None, tokens_per_minute: Some(10) };
    assert_eq!(check_minutes(small, None), seconds(119 * 60));
}

fn prices() -> Prices {
    // $1 and $2 a million: 1,000 and 2,000 billionths a token.
    Prices {
        prompt: Cost::from_dollars(1.0).unwrap(),
        completion: Cost::from_dollars(2.0).unwrap(),
    }
}

fn budgeted(
    cap: u64,
    script: impl Fn(&ChatRequest) -> Result<ChatReply, ChatError> + Send + Sync,
) -> Budgeted<impl ChatClient, MemoryLedger> {
    Budgeted::new(ScriptedChat::new(script), prices(), MemoryLedger::new(Cost { nanos: cap }))
}

#[test]
fn the_most_is_reserved_and_the_truth_is_paid() {
    // At most 100 tokens of 1,000 and 100 of 2,000.
    let used = TokenCount { prompt: 40, completion: 10 };
    let client = budgeted(400_000, move |_| Ok(fine().with_usage(used)));
    client.chat(&request()).unwrap();
    assert_eq!(client.ledger().spent(), Cost { nanos: 60_000 });
    client.chat(&request()).unwrap();
    let refused = client.chat(&request()).unwrap_err();
    assert_eq!(refused, ChatError::Budget(LedgerError::CapReached));
    assert_eq!(client.ledger().spent(), Cost { nanos: 120_000 });
}

#[test]
fn what_is_not_known_costs_the_most_and_what_was_refused_nothing() {
    let spent = |result: Result<ChatReply, ChatError>| {
        let client = budgeted(1_000_000, move |_| result.clone());
        let _ = client.chat(&request());
        client.ledger().spent().nanos
    };
    let most = 300_000;
    assert_eq!(spent(Ok(fine())), most, "no usage");
    assert_eq!(spent(Err(ChatError::Transport(TransportFault::Timeout))), most);
    assert_eq!(spent(Err(ChatError::Transport(TransportFault::Cut))), most);
    assert_eq!(spent(Err(ChatError::Unavailable { status: 504, retry_after: None })), most);
    assert_eq!(spent(Err(ChatError::Unavailable { status: 502, retry_after: None })), most);
    assert_eq!(spent(Err(ChatError::Transport(TransportFault::Connect))), 0);
    assert_eq!(spent(Err(ChatError::RateLimited { retry_after: None })), 0);
    assert_eq!(spent(Err(DOWN)), 0);
    let client = budgeted(1_000_000, |_| Ok(fine()));
    assert_eq!(client.chat(&ChatRequest::new("m", vec![])), Err(ChatError::Unbounded));
}

#[test]
fn amounts_are_read_and_rounded_up() {
    assert_eq!("2.50".parse(), Ok(Cost { nanos: 2_500_000_000 }));
    assert_eq!("$0".parse(), Ok(Cost::default()));
    for text in ["-1", "nan", "inf", "1e30", "", "2,5"] {
        assert!(text.parse::<Cost>().is_err(), "{text}");
    }
    let cheap = Prices { prompt: Cost { nanos: 1 }, completion: Cost { nanos: u64::MAX } };
    assert_eq!(cheap.cost(TokenCount { prompt: 1, completion: 0 }), Cost { nanos: 1 });
    let huge = TokenCount { prompt: u64::MAX, completion: u64::MAX };
    assert_eq!(cheap.cost(huge), Cost { nanos: u64::MAX });
}
