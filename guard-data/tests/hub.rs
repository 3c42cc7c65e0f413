//! Fetching from a hub that is played by this test.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guard_data::{FileName, Hub, HubError, Manifest, ManifestError, Trust};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves one file of one dataset, as the hub's `resolve` does; others are not there or gated.
fn hub(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                let is_there = head.contains(" /datasets/owner/set/resolve/main/data/train.jsonl ");
                let etag: String =
                    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
                let (status, headers, body) = match (is_there, head.contains("/gated/")) {
                    (true, _) => {
                        ("200 OK", format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n"), body)
                    }
                    (_, true) => ("403 Forbidden", "X-Error-Code: GatedRepo\r\n".to_owned(), ""),
                    _ => ("404 Not Found", "X-Error-Code: EntryNotFound\r\n".to_owned(), ""),
                };
                let length = body.len();
                let body = if head.starts_with("HEAD") { "" } else { body };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            });
        }
    });
    address
}

#[test]
fn files_are_fetched_pinned_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let name = FileName::of_dataset("owner/set", "main", "data/train.jsonl");
    let mut manifest = Manifest::default();
    let address = format!("http://{}", hub("{\"a\":1}\n"));
    let bytes = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&bytes);
    let first = Hub::at(&address, &folder.path().join("one")).unwrap();
    let first = first.with_watch(move |progress| counter.store(progress.done, Ordering::Relaxed));
    let refused = first.fetch(&name, &mut manifest, Trust::Pinned).unwrap_err();
    assert!(
        matches!(&refused, HubError::Manifest(error) if matches!(**error, ManifestError::Unknown { .. })),
        "{refused}"
    );
    let path = first.fetch(&name, &mut manifest, Trust::FirstUse).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":1}\n");
    assert_eq!(bytes.load(Ordering::Relaxed), 8, "progress was told");
    assert_eq!(first.fetch(&name, &mut manifest, Trust::Pinned).unwrap(), path, "from the cache");

    // The same name with other bytes: somebody changed the branch.
    let address = format!("http://{}", hub("{\"a\":2}\n"));
    let changed = Hub::at(&address, &folder.path().join("two")).unwrap();
    let refused = changed.fetch(&name, &mut manifest, Trust::FirstUse).unwrap_err();
    assert!(
        matches!(&refused, HubError::Manifest(error) if matches!(**error, ManifestError::Changed { .. })),
        "{refused}"
    );
}

#[test]
fn what_cannot_be_had_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("http://{}", hub(""));
    let hub = Hub::at(&address, folder.path()).unwrap();
    let fetch = |dataset: &str, path: &str| {
        let name = FileName::of_dataset(dataset, "main", path);
        hub.fetch(&name, &mut Manifest::default(), Trust::FirstUse).unwrap_err()
    };
    assert!(matches!(fetch("owner/set", "none"), HubError::NotFound(_)));
    let gated = fetch("gated/gated", "x");
    assert!(matches!(gated, HubError::NoAccess(_)), "{gated}");
    for (dataset, path) in [
        ("set", "x"),
        ("owner/../x", "x"),
        ("owner/set", "../x"),
        ("owner/set", "/etc/passwd"),
        ("a/b/c", "x"),
    ] {
        assert!(matches!(fetch(dataset, path), HubError::Name(_)), "{dataset} {path}");
    }
}
