//! T-50 and T-52: what a client makes of each reply.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::server::{Act, Seen, Server, reply, response};
use guard_data::{
    ApiKey, ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, HttpChat, HttpConfigError,
    InMemorySource, Journal, Message, ReplyFault, RetryPolicy, Retrying, Role, RunEnd, Sample,
    SynthesisOptions, SynthesisProgress, Synthesizer, TokenCount, TokenLimitField, TransportFault,
};

const CANARY: &str = "sk-CANARY-4711";

/// All that libraries log, at every level.
struct Log(Mutex<String>);

static LOG: Log = Log(Mutex::new(String::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}\n", record.target(), record.args());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
    }

    fn flush(&self) {}
}

fn key() -> ApiKey {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, format!("  {CANARY}\n")).unwrap();
    ApiKey::from_file(path).unwrap()
}

fn client(server: &Server) -> HttpChat {
    HttpChat::new(&server.url())
        .unwrap()
        .with_key(key())
        .with_timeout(Duration::from_millis(700))
        .with_reply_limit(100_000)
}

fn request() -> ChatRequest {
    ChatRequest::new("m", vec![Message::new(Role::User, "hi")])
}

fn ask(acts: Vec<Act>) -> Result<ChatReply, ChatError> {
    let server = Server::start(move |_| acts.clone());
    client(&server).chat(&request())
}

fn status(status: &str, headers: &str) -> ChatError {
    ask(response(status, headers, "{}")).unwrap_err()
}

#[test]
fn fault_t50_each_status_has_its_error() {
    let limited =
        |seconds| ChatError::RateLimited { retry_after: Some(Duration::from_secs(seconds)) };
    assert_eq!(status("429 Slow down", "Retry-After: 7\r\n"), limited(7));
    assert_eq!(status("429 Slow down", "retry-after: 0\r\n"), limited(0));
    assert_eq!(status("429 Slow down", ""), ChatError::RateLimited { retry_after: None });
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
    let wait = status("429 Slow down", &format!("Retry-After: {date}\r\n")).retry_after().unwrap();
    assert!((25..=30).contains(&wait.as_secs()), "{wait:?}");
    let past = "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    assert_eq!(status("429 Slow down", past), limited(0));
    let endless = status("429 Slow down", "Retry-After: 1e300\r\n");
    assert_eq!(endless.retry_after(), Some(Duration::MAX));
    for absurd in ["18446744073709549568", "-5", "nan", "soon", "99999999999999999999999", "\u{fc}"]
    {
        let error = status("429 Slow down", &format!("Retry-After: {absurd}\r\n"));
        assert!(matches!(error, ChatError::RateLimited { .. }), "{absurd}");
    }
    let unavailable = |status| ChatError::Unavailable { status, retry_after: None };
    assert_eq!(status("500 Oops", ""), unavailable(500));
    assert_eq!(status("503 Busy", ""), unavailable(503));
    assert_eq!(status("408 Slow", ""), unavailable(408));
    assert_eq!(status("401 Who?", ""), ChatError::Unauthorised { status: 401 });
    assert_eq!(status("402 Pay", ""), ChatError::QuotaExhausted);
    assert_eq!(status("400 What?", ""), ChatError::Refused { status: 400 });
    let quota =
        r#"{"error":{"message":"no","type":"insufficient_quota","code":"insufficient_quota"}}"#;
    assert_eq!(ask(response("429 Pay", "", quota)), Err(ChatError::QuotaExhausted));
    assert_eq!(ask(response("503 Busy", "", "<html>busy</html>")), Err(unavailable(503)));
}

#[test]
fn fault_t50_useless_bodies_are_named() {
    let malformed = |body: &str| match ask(response("200 OK", "", body)) {
        Err(ChatError::Malformed(fault)) => fault,
        other => panic!("{body}: {other:?}"),
    };
    assert_eq!(malformed("<html>sign in</html>"), ReplyFault::NotJson);
    assert_eq!(malformed(""), ReplyFault::NotJson);
    assert_eq!(malformed(&reply("x", "stop")[..40]), ReplyFault::NotJson);
    assert_eq!(malformed(&"[".repeat(50_000)), ReplyFault::NotJson);
    for body in ["{}", "[]", "null", r#"{"choices":[]}"#, r#"{"choices":7}"#] {
        assert_eq!(malformed(body), ReplyFault::Field("choices"), "{body}");
    }
    for body in [
        r#"{"choices":[null]}"#,
        r#"{"choices":[{"message":null}]}"#,
        r#"{"choices":[{"message":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"message":{"content":["x"]}}]}"#,
    ] {
        assert_eq!(malformed(body), ReplyFault::Field("content"), "{body}");
    }
    assert_eq!(malformed(&" ".repeat(100_001)), ReplyFault::TooLarge { limit: 100_000 });
}

#[test]
fn fault_t50_lost_replies_are_told_apart() {
    let fault = |acts| match ask(acts) {
        Err(ChatError::Transport(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let send = |text: &str| Act::Send(text.as_bytes().to_vec());
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
    assert_eq!(fault(vec![send(head), send("{\"choices\"")]), TransportFault::Cut);
    assert_eq!(fault(vec![send("HTTP/1.1 200 OK\r\nContent-")]), TransportFault::Cut);
    assert_eq!(fault(vec![send("nonsense\r\n\r\n")]), TransportFault::Cut);
    assert_eq!(fault(vec![Act::Reset]), TransportFault::Cut);
    let mut drip = vec![send("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")];
    for _ in 0..20 {
        drip.extend([send(" "), Act::Pause(Duration::from_millis(100))]);
    }
    assert_eq!(fault(drip), TransportFault::Timeout);
    let stall = Act::Pause(Duration::from_secs(3));
    assert_eq!(fault(vec![stall.clone()]), TransportFault::Timeout);
    assert_eq!(fault(vec![send(head), stall]), TransportFault::Timeout);
    let headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Filler: yes\r\n".repeat(100_000));
    assert_eq!(fault(vec![send(&headers)]), TransportFault::Cut);
    let endless = vec![send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"), Act::Endless];
    assert_eq!(ask(endless), Err(ChatError::Malformed(ReplyFault::TooLarge { limit: 100_000 })));
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = HttpChat::new(&format!("http://{free}")).unwrap().chat(&request());
    assert_eq!(nobody, Err(ChatError::Transport(TransportFault::Connect)));
}

#[test]
fn fault_t50_a_redirect_is_not_followed() {
    let other = Server::start(|_| response("200 OK", "", &reply("stolen", "stop")));
    for code in ["301", "302", "307", "308"] {
        let location = format!("Location: {}/chat/completions\r\n", other.url());
        let error = status(&format!("{code} Over there"), &location);
        assert_eq!(error, ChatError::Refused { status: code.parse().unwrap() });
    }
    assert_eq!(other.requests(), 0);
}

#[test]
fn a_good_reply_is_read_and_the_request_is_as_it_should_be() {
    let server = Server::start(|seen: &Seen| {
        assert!(seen.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
        assert!(seen.head.contains(&format!("Bearer {CANARY}\r\n")));
        assert_eq!(seen.body["model"], "m");
        assert_eq!(seen.body["messages"][0], serde_json::json!({"role": "user", "content": "hi"}));
        assert_eq!(seen.body["max_completion_tokens"], 9);
        assert!(seen.body.get("temperature").is_none());
        response("200 OK", "Content-Type: application/json\r\n", &reply("fine", "stop"))
    });
    let mut request = request();
    request.max_tokens = Some(9);
    let client = client(&server).with_token_limit_field(TokenLimitField::MaxCompletionTokens);
    let usage = TokenCount { prompt: 100, completion: 50 };
    let expected = ChatReply::new("fine", ChatFinish::Stop).with_usage(usage);
    assert_eq!(client.chat(&request), Ok(expected));
    let finish = |word: &str| ask(response("200 OK", "", &reply("x", word))).unwrap().finish;
    assert_eq!(finish("length"), ChatFinish::Length);
    assert_eq!(finish("content_filter"), ChatFinish::ContentFilter);
    assert_eq!(finish("tool_calls"), ChatFinish::Other);
    let count = |usage: &str| {
        let body = format!(
            r#"{{"choices":[{{"message":{{"content":null}},"finish_reason":"content_filter"}}],"usage":{usage}}}"#
        );
        let reply = ask(response("200 OK", "", &body)).unwrap();
        assert_eq!((reply.finish, reply.text.as_str()), (ChatFinish::ContentFilter, ""));
        reply.usage.map(|usage| (usage.prompt, usage.completion))
    };
    assert_eq!(count(r#"{"prompt_tokens":-1,"completion_tokens":5}"#), None);
    assert_eq!(count(r#"{"prompt_tokens":0,"completion_tokens":0}"#), None);
    assert_eq!(count(r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1}"#), None);
    assert_eq!(count(r#"{"prompt_tokens":7,"completion_tokens":"x"}"#), None);
    assert_eq!(count(r#"{"prompt_tokens":7,"completion_tokens":2}"#), Some((7, 2)));
    let hidden = r#"{"prompt_tokens":7,"completion_tokens":2,"total_tokens":90}"#;
    assert_eq!(count(hidden), Some((7, 83)), "hidden reasoning is in the total only");
}

#[test]
fn addresses_that_would_leak_are_refused() {
    let refused = |address| HttpChat::new(address).unwrap_err();
    assert!(matches!(refused("http://example.com/v1"), HttpConfigError::PlainHttp));
    assert!(matches!(refused("http://127.0.0.1.example.com/v1"), HttpConfigError::PlainHttp));
    assert!(matches!(refused("https://user:SECRET@example.com/v1"), HttpConfigError::Credentials));
    for address in
        ["", "example.com/v1", "ftp://example.com", "https://", "file:///etc", "https://a/b?key=x"]
    {
        assert!(matches!(refused(address), HttpConfigError::Address), "{address}");
    }
    for address in [
        "https://example.com/v1",
        "http://localhost:1",
        "http://[::1]:8000/v1/",
        "http://127.0.0.2",
    ] {
        assert!(HttpChat::new(address).is_ok(), "{address}");
    }
    assert!(HttpChat::new_unencrypted("http://example.com/v1").is_ok());
}

/// T-52. The other places of a key are checked where a child process has it: killed.rs.
#[test]
fn fault_t52_the_key_is_nowhere_seen() {
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Trace);
    let mut shown = format!("{:?}", key());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    for text in ["", " \n", &format!("{CANARY} {CANARY}"), &format!("{CANARY}\u{e9}")] {
        std::fs::write(&path, text).unwrap();
        let error = ApiKey::from_file(&path).unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
    }
    let bad = response("401 Who?", "", &format!("{{\"error\":\"bad key {CANARY}\"}}"));
    let cases = [
        bad,
        response("200 OK", "", CANARY),
        response(&format!("500 {CANARY}"), &format!("X-Key: {CANARY}\r\n"), CANARY),
        vec![Act::Reset],
        vec![Act::Pause(Duration::from_secs(2))],
    ];
    for (number, acts) in cases.into_iter().enumerate() {
        let server = Server::start(move |_| acts.clone());
        let policy = RetryPolicy::default().with_attempts(2);
        let policy = policy.with_waits(Duration::ZERO, Duration::ZERO);
        let client = Retrying::new(client(&server), policy, 0);
        shown.push_str(&format!("{client:?}"));
        let journal = Journal::open(folder.path().join(format!("{number}.jsonl")), None).unwrap();
        let source = InMemorySource::new("s", vec![Sample::new("1", "s", "hi")]);
        let synthesizer = Synthesizer::new(client, SynthesisOptions::new("m"));
        let report = synthesizer.run(&source, &journal, &mut ()).unwrap();
        let SynthesisProgress { failed, rejected, .. } = report.progress;
        assert_eq!((failed + rejected, &report.end), (1, &RunEnd::Finished));
        shown.push_str(&format!("{report} {report:?} {journal:?}"));
        shown.push_str(&std::fs::read_to_string(journal.path()).unwrap());
        let error = synthesizer.client().chat(&request()).unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
    }
    let panic = std::panic::catch_unwind(|| panic!("{:?}", key()));
    shown.push_str(panic.unwrap_err().downcast_ref::<String>().unwrap());
    let log = LOG.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(log.contains("reqwest"), "the client logs: {log}");
    for line in log.lines().chain(shown.lines()) {
        assert!(!line.contains("CANARY"), "{line}");
    }
}
