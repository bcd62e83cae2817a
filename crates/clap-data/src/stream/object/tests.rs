//! Objects in memory, in a folder and behind a web server that breaks off.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::memory::InMemory;

use super::*;
use crate::stream::tests::{epoch, open, shard_of, shards};
use crate::stream::{Shard, Stream, StreamOptions};
use crate::{Loader, LoaderConfig};

fn config() -> LoaderConfig {
    LoaderConfig { batch_size: 4, seed: 3, shuffle: true, drop_last: true, ..LoaderConfig::default() }
}

fn options() -> StreamOptions {
    StreamOptions { shuffle_buffer: 10, readers: 2, ..StreamOptions::default() }
}

fn stream(url: &str) -> Arc<Stream> {
    Arc::new(Stream::open(std::path::Path::new(url), options()).unwrap())
}

/// How a [`Server`] answers.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// Every connection but each `n`th is closed after so many bytes of the body.
    breaks: Option<(usize, usize)>,
    /// Knows no `Range`.
    whole_only: bool,
    /// Closes after no byte at all, always.
    never: bool,
}

/// A web server on this machine that serves what it was given.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(files: Vec<(&'static str, Vec<u8>)>, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, count) = (Arc::clone(&requests), AtomicUsize::new(0));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that is gone is no failure of the server's.
                let _ = answer(connection.unwrap(), &files, manners, &log, &count);
            }
        });
        Self { address, requests }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    fn asked_for(&self, name: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.contains(name)).count()
    }
}

fn answer(
    mut connection: TcpStream,
    files: &[(&str, Vec<u8>)],
    manners: Manners,
    log: &Mutex<Vec<String>>,
    count: &AtomicUsize,
) -> io::Result<()> {
    let mut request = String::new();
    let mut range = None;
    for line in BufReader::new(connection.try_clone()?).lines() {
        let line = line?;
        if request.is_empty() {
            request.clone_from(&line);
        }
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = bytes.split('-').next().and_then(|from| from.parse::<usize>().ok());
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(request.clone());
    let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
    let Some((_, bytes)) = files.iter().find(|(name, _)| *name == path) else {
        return write!(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let from = range.filter(|_| !manners.whole_only).unwrap_or(0);
    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
    let body = &bytes[from..];
    write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    if from > 0 {
        write!(connection, "Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len())?;
    }
    write!(connection, "\r\n")?;
    let end = match manners.breaks {
        _ if manners.never => 0,
        Some((every, after))
            if path.ends_with(".tar") && !(count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every) =>
        {
            after.min(body.len())
        }
        _ => body.len(),
    };
    connection.write_all(&body[..end])?;
    connection.flush()
}

/// What the shards of [`shards`] give from disk.
fn expected(inventory: bool) -> (Vec<crate::stream::tests::Batch>, Vec<String>) {
    let tree = shards(&[7, 12, 5], inventory);
    epoch(&open(&tree, options()), &config())
}

fn files(inventory: bool) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = vec![("a/0.tar", shard_of(0..7)), ("a/1.tar", shard_of(7..19)), ("a/2.tar", shard_of(19..24))];
    if inventory {
        files.push(("a/sizes.json", br#"{"0.tar": 7, "1.tar": 12, "2.tar": 5}"#.to_vec()));
    }
    files
}

#[test]
fn a_web_server_gives_the_same_batches_as_a_folder() {
    for inventory in [true, false] {
        let server = Server::new(files(inventory), Manners::default());
        let stream = stream(&server.url("a/{0..2}.tar"));
        assert_eq!((stream.shards(), stream.samples()), (3, inventory.then_some(24)));
        assert_eq!(epoch(&stream, &config()), expected(inventory));
        assert_eq!((server.asked_for("sizes.json"), server.asked_for("1.tar")), (1, 1));
    }
}

#[test]
fn broken_connections_are_taken_up_where_they_broke() {
    for whole_only in [false, true] {
        let manners = Manners { breaks: Some((3, 3000)), whole_only, never: false };
        let server = Server::new(files(true), manners);
        let stream = stream(&server.url("a/{0..2}.tar"));
        assert_eq!(epoch(&stream, &config()), expected(true), "whole_only {whole_only}");
        assert!(server.asked_for(".tar") > 3);
    }
}

#[test]
fn a_server_that_never_gives_is_given_up_and_named() {
    let server = Server::new(files(true), Manners { never: true, ..Manners::default() });
    let object = Object {
        store: parse_url_opts(&Url::parse(&server.url("a/0.tar")).unwrap(), [("allow_http", "true")]).unwrap().0.into(),
        path: Path::from("a/0.tar"),
        url: server.url("a/0.tar"),
        runtime: runtime().unwrap(),
    };
    let mut bytes = Vec::new();
    let error = object.open().unwrap().read_to_end(&mut bytes).unwrap_err();
    assert!(bytes.is_empty(), "{error}");
}

#[test]
fn an_absent_shard_is_reported_and_its_places_stay_empty() {
    let mut files = files(true);
    files.remove(1);
    let server = Server::new(files, Manners::default());
    let (batches, skipped) = epoch(&stream(&server.url("a/{0..2}.tar")), &config());
    assert_eq!(batches.len(), 6);
    assert_eq!(batches.iter().map(|(_, _, items)| items.len()).sum::<usize>(), 12);
    assert!(skipped.len() == 1 && skipped[0].contains("/a/1.tar: "), "{skipped:?}");
}

#[test]
fn a_folder_by_url_and_a_store_in_memory() {
    let tree = shards(&[7, 12, 5], true);
    let url = format!("file://{}/{{0..2}}.tar", tree.path("").display());
    assert_eq!(epoch(&stream(&url), &config()), expected(true));

    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (name, bytes) in files(false) {
        runtime().unwrap().block_on(store.put(&Path::from(name), bytes.into())).unwrap();
    }
    let objects = ["a/0.tar", "a/1.tar", "a/2.tar"].map(|path| Shard::Object(Object::of(Arc::clone(&store), path)));
    let stream = Stream::of("memory".to_owned(), objects.into(), vec![Some(7), Some(12), Some(5)], options());
    assert_eq!(epoch(&Arc::new(stream.unwrap()), &config()), expected(true));
}

#[test]
fn what_is_no_url_of_shards_is_named() {
    let server = Server::new(vec![("b/sizes.json", b"what".to_vec())], Manners::default());
    for (url, part) in [
        (server.url("b/0.tar"), "sizes.json"),
        (server.url("a/0.tar?signature=x"), "`?`"),
        ("ftp://host/0.tar".to_owned(), "ftp://host/0.tar"),
        ("s3://bucket/{0..".to_owned(), "{0.."),
    ] {
        let error = Stream::open(std::path::Path::new(&url), options()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn no_more_is_fetched_than_is_taken() {
    const SOUND: usize = 1 << 16;
    let pair =
        crate::test_tree::tar(&[("1.wav", &[0; SOUND]), ("1.txt", b"x"), ("2.wav", &[0; SOUND]), ("2.txt", b"x")]);
    let pairs = pair[..pair.len() - 1024].to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/0.tar", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    std::thread::spawn(move || -> io::Result<()> {
        for connection in listener.incoming() {
            let mut connection = connection?;
            let mut request = String::new();
            let mut lines = BufReader::new(connection.try_clone()?);
            while lines.read_line(&mut request)? > 2 {}
            if request.contains("sizes.json") {
                write!(connection, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
                continue;
            }
            // 4000 times 128 KiB: half a gigabyte.
            write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 4000 * pairs.len())?;
            for _ in 0..4000 {
                connection.write_all(&pairs)?;
                count.fetch_add(pairs.len(), Ordering::Relaxed);
            }
        }
        Ok(())
    });
    let options = StreamOptions { shuffle_buffer: 8, ..StreamOptions::default() };
    let stream = Arc::new(Stream::open(std::path::Path::new(&url), options).unwrap());
    let mut loader = Loader::stream(&stream, config(), |sample, _| Ok::<_, String>(sample.audio.held_bytes())).unwrap();
    for _ in 0..3 {
        assert_eq!(loader.next().unwrap().items, [SOUND; 4]);
    }
    // Long enough for a reader that does not wait to fetch all of it.
    std::thread::sleep(Duration::from_millis(500));
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes for 24 clips that are taken or wait");
}
