//! Reading what a server replied.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::teacher::chat::{ChatError, ChatFinish, ChatReply, ReplyFault, TokenCount};

/// How long the service asks to wait: seconds, or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        let too_long = seconds > 1e9;
        return if too_long {
            Some(Duration::MAX)
        } else {
            Duration::try_from_secs_f64(seconds).ok()
        };
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Whether the body of an error says that the money is used up.
pub(super) fn is_quota(body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    [&body["error"]["code"], &body["error"]["type"]]
        .into_iter()
        .any(|word| word == "insufficient_quota")
}

/// The reply in a body.
pub(super) fn read_reply(body: &[u8]) -> Result<ChatReply, ChatError> {
    let missing = |field| ChatError::Malformed(ReplyFault::Field(field));
    let json: Value =
        serde_json::from_slice(body).map_err(|_| ChatError::Malformed(ReplyFault::NotJson))?;
    let choice = json["choices"].get(0).ok_or(missing("choices"))?;
    let finish = match choice["finish_reason"].as_str() {
        Some("stop") => ChatFinish::Stop,
        Some("length") => ChatFinish::Length,
        Some("content_filter") => ChatFinish::ContentFilter,
        _ => ChatFinish::Other,
    };
    let text = match choice["message"].get("content") {
        Some(Value::String(text)) => text,
        // Filtered replies, refusals and those that only reasoned come without a text.
        Some(Value::Null) => "",
        _ => return Err(missing("content")),
    };
    let mut reply = ChatReply::new(text, finish);
    reply.usage = usage(&json["usage"]);
    Ok(reply)
}

/// The tokens, where the service counted some: 0 for a request, or more than any request has, is no
/// count. Some services leave hidden reasoning out of all but the total.
fn usage(json: &Value) -> Option<TokenCount> {
    let count = |field: &str| json[field].as_u64().filter(|tokens| *tokens <= u32::MAX.into());
    let prompt = count("prompt_tokens").filter(|tokens| *tokens > 0)?;
    let completion = count("completion_tokens")?;
    let rest = count("total_tokens").unwrap_or(0).saturating_sub(prompt);
    Some(TokenCount { prompt, completion: completion.max(rest) })
}
