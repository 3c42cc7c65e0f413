//! Showing hostile text to people.

use std::fmt::Write;

/// Whether a character steers a terminal or hides text from its reader: control characters,
/// zero-width characters, changes of direction, and tag characters.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}')
}

/// The same text with hidden characters spelled out, such as `\u{1b}`. Line ends stay, and tabs
/// become blanks.
///
/// ```
/// assert_eq!(guard_core::visible("a\u{1b}[2J\tb"), "a\\u{1b}[2J b");
/// ```
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            '\t' => out.push(' '),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
