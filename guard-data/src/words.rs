//! Words of a text as numbers, for looking for texts and phrases that occur again.

/// The words of a text: runs of letters and digits.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The words of a text as numbers that are the same for the same word, whatever its case.
pub(crate) fn word_hashes(text: &str) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(text.len() / 5);
    let mut word = WordHash::default();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            word.add(u64::from(c.to_ascii_lowercase()));
        } else if c.is_ascii() || !c.is_alphanumeric() {
            hashes.extend(word.take());
        } else {
            c.to_lowercase().for_each(|c| word.add(u64::from(c)));
        }
    }
    hashes.extend(word.take());
    hashes
}

/// The FNV-1a hash of the characters so far; 0 before the first.
#[derive(Default)]
struct WordHash(u64);

impl WordHash {
    fn add(&mut self, c: u64) {
        let hash = if self.0 == 0 { 0xcbf2_9ce4_8422_2325 } else { self.0 };
        self.0 = (hash ^ c).wrapping_mul(0x0100_0000_01b3);
    }

    /// The number of the word that ends here, if one does.
    fn take(&mut self) -> Option<u64> {
        let hash = std::mem::take(&mut self.0);
        (hash != 0).then_some(hash)
    }
}

/// A number for some words in a row.
pub(crate) fn phrase_hash(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| {
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_punctuation_do_not_matter_and_order_does() {
        let hash = |text: &str| phrase_hash(&word_hashes(text));
        assert_eq!(hash("How do I, Ärger?"), hash("how do\ni... ÄRGER"));
        assert_ne!(hash("a b"), hash("b a"));
        assert_ne!(hash("ab"), hash("a b"));
        assert!(word_hashes(" .,\n").is_empty());
    }
}
