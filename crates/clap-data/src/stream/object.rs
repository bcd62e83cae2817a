//! Shards of an object store: S3, Google Cloud Storage, Azure, plain web servers.
//!
//! One request brings a shard, piece by piece as it is read; the pieces are those of the network, and one is held. Where the
//! connection breaks, another request goes on at the same byte. Credentials come from the environment (`AWS_…`, `GOOGLE_…`,
//! `AZURE_…`), as for the stores' own programs.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, parse_url_opts};
use serde_json::{Map, Value};
use tokio::runtime::Runtime;
use url::Url;

use crate::{Error, Result, expand_braces};

/// Breaks in a row, no byte between them, after which a shard is given up. The store's own retries of a request come on top.
const MAX_BREAKS: u32 = 5;

/// Before the first of them is answered by another request; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);

/// A `sizes.json` longer than this is none.
const MAX_INVENTORY: u64 = 64 << 20;

/// Prefixes of the environment variables that configure stores.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// One object.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: Path,
    url: String,
    runtime: &'static Runtime,
}

/// A folder of objects: the store it is in and, where there is one, its inventory.
type Folder = (Arc<dyn ObjectStore>, Option<Map<String, Value>>);

/// The objects that a URL stands for, and the pairs that the inventory beside each promises.
pub(super) fn objects(pattern: &str) -> Result<(Vec<Object>, Vec<Option<u64>>)> {
    let runtime = runtime()?;
    let mut folders: HashMap<String, Folder> = HashMap::new();
    let (mut objects, mut sizes) = (Vec::new(), Vec::new());
    for text in expand_braces(pattern)? {
        let refuse = |reason: String| Error::Stream { what: text.clone(), reason };
        let url = Url::parse(&text).map_err(|error| refuse(error.to_string()))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("a URL with `?` or `#` is not supported; give that of the shard alone".to_owned()));
        }
        let (folder, name) = text.rsplit_once('/').unwrap_or(("", &text));
        let (_, path) = ObjectStoreScheme::parse(&url).map_err(|error| refuse(error.to_string()))?;
        if !folders.contains_key(folder) {
            let store: Arc<dyn ObjectStore> =
                parse_url_opts(&url, options(&url)).map_err(|error| refuse(error.to_string()))?.0.into();
            let inventory = inventory(&store, &path, runtime)
                .map_err(|reason| Error::Stream { what: format!("{folder}/sizes.json"), reason })?;
            folders.insert(folder.to_owned(), (store, inventory));
        }
        let (store, inventory) = &folders[folder];
        sizes.push(inventory.as_ref().and_then(|inventory| inventory.get(name)?.as_u64()));
        objects.push(Object { store: Arc::clone(store), path, url: text, runtime });
    }
    Ok((objects, sizes))
}

/// What the store is told: its credentials, and how long to wait. A shard is read as slowly as a model trains, so there is no
/// limit to the whole of a request; there is one to the silence of a server.
fn options(url: &Url) -> Vec<(String, String)> {
    let is_ours = |name: &str| VARIABLES.iter().any(|prefix| name.starts_with(prefix));
    let mut options: Vec<(String, String)> = std::env::vars().filter(|(name, _)| is_ours(name)).collect();
    let fixed = [("timeout", "30 days"), ("read_timeout", "60 seconds")];
    options.extend(fixed.map(|(name, value)| (name.to_owned(), value.to_owned())));
    if url.scheme() == "http" {
        options.push(("allow_http".to_owned(), "true".to_owned()));
    }
    options
}

/// The `sizes.json` beside an object; nothing where there is none.
fn inventory(
    store: &Arc<dyn ObjectStore>,
    shard: &Path,
    runtime: &Runtime,
) -> std::result::Result<Option<Map<String, Value>>, String> {
    let parts: Vec<_> = shard.parts().collect();
    let folder = Path::from_iter(parts.into_iter().rev().skip(1).collect::<Vec<_>>().into_iter().rev());
    let got = match runtime.block_on(store.get(&folder.join("sizes.json"))) {
        Ok(got) if got.meta.size > MAX_INVENTORY => return Err(format!("{} bytes long", got.meta.size)),
        Ok(got) => got,
        // Servers that list nothing may refuse instead of saying that there is nothing.
        Err(
            object_store::Error::NotFound { .. }
            | object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. },
        ) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let bytes = runtime.block_on(got.bytes()).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
}

/// The thread on which connections live, for all streams of the process.
fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("object-store").enable_all().build().map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|reason| Error::Stream { what: "object store".to_owned(), reason: reason.clone() })
}

impl Object {
    #[cfg(test)]
    pub(super) fn of(store: Arc<dyn ObjectStore>, path: &str) -> Self {
        Self { store, path: Path::from(path), url: format!("test://{path}"), runtime: runtime().unwrap() }
    }

    pub(super) fn name(&self) -> &str {
        &self.url
    }

    /// Asks for it.
    pub(super) fn open(&self) -> io::Result<ObjectReader> {
        let mut reader = ObjectReader {
            store: Arc::clone(&self.store),
            path: self.path.clone(),
            runtime: self.runtime,
            body: None,
            piece: Bytes::new(),
            position: 0,
            size: 0,
            tag: None,
            breaks: 0,
        };
        reader.request()?;
        Ok(reader)
    }
}

/// An object from its first byte to its last.
pub(super) struct ObjectReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    runtime: &'static Runtime,
    body: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// What came and is not read yet.
    piece: Bytes,
    /// Bytes that came.
    position: u64,
    size: u64,
    /// Of the state of the object that is read.
    tag: Option<String>,
    breaks: u32,
}

impl ObjectReader {
    /// Asks for what is left.
    fn request(&mut self) -> io::Result<()> {
        let range = (self.position > 0).then_some(GetRange::Offset(self.position));
        let options = GetOptions { range, ..GetOptions::default() };
        let got = self.runtime.block_on(async {
            match self.store.get_opts(&self.path, options).await {
                // A server that knows no ranges begins anew.
                Err(object_store::Error::NotSupported { .. }) if self.position > 0 => {
                    self.store.get_opts(&self.path, GetOptions::default()).await
                }
                got => got,
            }
        });
        let got = got.map_err(|error| {
            let kind = match error {
                object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                    io::ErrorKind::PermissionDenied
                }
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, error.to_string())
        })?;
        if self.position == 0 {
            (self.size, self.tag) = (got.meta.size, got.meta.e_tag.clone());
        } else if (got.meta.size, &got.meta.e_tag) != (self.size, &self.tag) {
            return Err(io::Error::other("it changed while it was read"));
        }
        let mut ahead = self.position.saturating_sub(got.range.start);
        let mut body = got.into_stream();
        while ahead > 0 {
            let Some(piece) = self.runtime.block_on(body.next()).transpose()? else { break };
            let over = ahead.min(piece.len() as u64);
            ahead -= over;
            if ahead == 0 {
                self.piece = piece.slice(usize::try_from(over).unwrap_or(piece.len())..);
                self.position += self.piece.len() as u64;
            }
        }
        self.body = Some(body);
        Ok(())
    }

    /// Waits for the next piece; none at the end.
    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let broken = match &mut self.body {
                None => self.request().err(),
                Some(body) => match self.runtime.block_on(body.next()) {
                    Some(Ok(piece)) => {
                        self.position += piece.len() as u64;
                        self.breaks = 0;
                        return Ok(Some(piece));
                    }
                    None if self.position >= self.size => return Ok(None),
                    None => Some(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed early")),
                    Some(Err(error)) => Some(io::Error::other(error.to_string())),
                },
            };
            let Some(error) = broken else {
                if !self.piece.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.piece)));
                }
                continue;
            };
            let is_final = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
            if is_final || self.breaks >= MAX_BREAKS {
                return Err(error);
            }
            tracing::info!(%error, position = self.position, "reading {} goes on with another request", self.path);
            std::thread::sleep(PAUSE * 2u32.pow(self.breaks));
            self.breaks += 1;
            self.body = None;
        }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.next_piece()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
