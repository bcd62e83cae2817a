//! The folder of a run.
//!
//! ```text
//! RUN/config.toml                   the resolved configuration
//! RUN/metrics.jsonl                 one event per line, flushed as it happens
//! RUN/tensorboard/                  the same numbers as event files of TensorBoard
//! RUN/checkpoints/epoch_N/          Hugging Face model folder, and training_state.safetensors in the latest
//! RUN/checkpoints/step_N/           the same between two evaluations, while it is the latest
//! RUN/checkpoints/latest, best      links to two of them
//! RUN/report.html                   written at the end
//! RUN/report.md, RUN/curves/*.svg   the same
//! ```
//!
//! A checkpoint is written under a hidden name, synced and renamed, and the links are replaced by a rename: whenever the
//! process ends, every name points at something whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::state::{STATE_FILE, TrainingState};
use crate::tensorboard::EventFile;

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const LATEST: &str = "latest";
const BEST: &str = "best";
const LOCK_TRIES: usize = 3;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A run's folder, open for writing.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    metrics: BufWriter<File>,
    tensorboard: EventFile,
}

impl RunFolder {
    /// Makes the folder of a new run with its configuration in it.
    ///
    /// # Errors
    /// Where it cannot be made or holds a run already.
    pub fn create(path: &Path, config: &str) -> Result<Self> {
        if path.join(METRICS).exists() || path.join(CHECKPOINTS).exists() {
            let reason = std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "holds a run already; choose another name or remove it",
            );
            return Err(Error::io(path, reason));
        }
        fs::create_dir_all(path.join(CHECKPOINTS)).map_err(|e| Error::io(path, e))?;
        write_atomically(&path.join(CONFIG), config.as_bytes())?;
        let metrics = open_metrics(path)?;
        Ok(Self { path: path.to_owned(), metrics, tensorboard: EventFile::create(path, config)? })
    }

    /// Opens the folder of a run that goes on after `step` steps. What `metrics.jsonl` tells of later ones is taken out,
    /// since they are taken again.
    ///
    /// # Errors
    /// Where it cannot be read or written, or another process trains the run.
    pub fn reopen(path: &Path, step: u64) -> Result<Self> {
        let metrics = path.join(METRICS);
        let mut open = open_metrics(path)?;
        let text = fs::read(&metrics).map_err(|e| Error::io(&metrics, e))?;
        let kept = before(&text, step);
        if kept < text.len() {
            open.get_mut().set_len(kept as u64).map_err(|e| Error::io(&metrics, e))?;
        }
        Ok(Self { path: path.to_owned(), metrics: open, tensorboard: EventFile::go_on(path, step)? })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration of the run at `run`.
    #[must_use]
    pub fn config(run: &Path) -> PathBuf {
        run.join(CONFIG)
    }

    /// The log of the run at `run`, an event a line.
    #[must_use]
    pub fn metrics(run: &Path) -> PathBuf {
        run.join(METRICS)
    }

    /// Whether a process has the run at `run` open; none where the file system has no locks.
    ///
    /// # Errors
    /// Where there is no such run.
    pub fn is_open(run: &Path) -> Result<Option<bool>> {
        let path = run.join(METRICS);
        let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        Ok(match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        })
    }

    /// The model folder of the best evaluation of the run at `run`.
    #[must_use]
    pub fn best(run: &Path) -> PathBuf {
        run.join(CHECKPOINTS).join(BEST)
    }

    /// The model folder of the latest checkpoint of the run at `run`.
    #[must_use]
    pub fn latest(run: &Path) -> PathBuf {
        run.join(CHECKPOINTS).join(LATEST)
    }

    /// Appends one event to `metrics.jsonl` and its numbers to TensorBoard's file.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn log(&mut self, event: &Event) -> Result<()> {
        let path = self.path.join(METRICS);
        let line = serde_json::to_string(event).expect("events hold only numbers, text and tables by text keys");
        writeln!(self.metrics, "{line}").and_then(|()| self.metrics.flush()).map_err(|e| Error::io(&path, e))?;
        self.tensorboard.log(event)
    }

    /// Writes the checkpoint `name`, `epoch_N` or `step_N`: `save_model` makes the model folder at the path it is given,
    /// `state` is added; then `latest`, and `best` where asked for, are pointed at it. Checkpoints that neither link names are
    /// removed, those of epochs unless `keep_all`.
    ///
    /// # Errors
    /// Where anything cannot be written; what was there before is untouched and nothing partial stays.
    pub fn checkpoint(
        &self,
        name: &str,
        best: bool,
        keep_all: bool,
        state: &TrainingState,
        save_model: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let root = self.path.join(CHECKPOINTS);
        let (partial, whole) = (root.join(format!(".{name}.partial")), root.join(name));
        remove_if_present(&partial)?;
        let written = save_model(&partial).and_then(|()| {
            let file = partial.join(STATE_FILE);
            state.save(&file)?;
            sync(&file)?;
            sync(&partial)?;
            remove_if_present(&whole)?;
            fs::rename(&partial, &whole).map_err(|e| Error::io(&whole, e))
        });
        if let Err(error) = written {
            // The first error is the one to tell.
            let _ = remove_if_present(&partial);
            return Err(error);
        }
        sync(&root)?;
        point(&root.join(LATEST), name)?;
        if best {
            point(&root.join(BEST), name)?;
        }
        self.prune(&root, name, keep_all)?;
        Ok(whole)
    }

    /// Removes the checkpoints that nothing names any more, and the optimiser's state from all but the latest.
    fn prune(&self, root: &Path, latest: &str, keep_all: bool) -> Result<()> {
        let best = target(&root.join(BEST));
        for entry in fs::read_dir(root).map_err(|e| Error::io(root, e))? {
            let entry = entry.map_err(|e| Error::io(root, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What a killed process left half written; nobody else writes here.
            if name.starts_with('.') && name.contains(".partial") {
                remove_if_present(&entry.path())?;
                continue;
            }
            let of_epoch = name.starts_with("epoch_");
            if !of_epoch && !name.starts_with("step_") || name == latest {
                continue;
            }
            if keep_all && of_epoch || best.as_deref() == Some(name.as_str()) {
                remove_if_present(&entry.path().join(STATE_FILE))?;
            } else {
                remove_if_present(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Opens `metrics.jsonl` to add to it, for one process at a time.
fn open_metrics(run: &Path) -> Result<BufWriter<File>> {
    let path = run.join(METRICS);
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
    let mut lock = file.try_lock();
    // A watcher that asks whether the run is open holds the lock for microseconds.
    for _ in 0..LOCK_TRIES {
        if !matches!(lock, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        lock = file.try_lock();
    }
    match lock {
        Ok(()) => Ok(BufWriter::new(file)),
        Err(TryLockError::WouldBlock) => {
            let reason = std::io::Error::new(ErrorKind::ResourceBusy, "another process trains this run");
            Err(Error::io(run, reason))
        }
        // A file system without locks: nothing is lost but the warning.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(BufWriter::new(file)),
        Err(TryLockError::Error(error)) => Err(Error::io(&path, error)),
    }
}

/// Bytes of the events up to and with step `step`. A killed process may have left half a line at the end.
fn before(metrics: &[u8], step: u64) -> usize {
    let mut kept = 0;
    for line in metrics.split_inclusive(|byte| *byte == b'\n') {
        let event = serde_json::from_slice::<serde_json::Value>(line).ok().filter(|_| line.ends_with(b"\n"));
        match event {
            Some(event) if event["step"].as_u64().is_none_or(|at| at <= step) => kept += line.len(),
            _ => break,
        }
    }
    kept
}

/// Writes a file under a temporary name and renames it.
///
/// # Errors
/// Where it cannot be written; the old file is untouched then.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&partial);
        Error::io(path, e)
    })
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io(path, e))
}

fn remove_if_present(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    removed.map_err(|e| Error::io(path, e))
}

/// Points the link at the checkpoint of that name beside it, in one step.
#[cfg(unix)]
fn point(link: &Path, name: &str) -> Result<()> {
    let partial = link.with_extension("partial");
    remove_if_present(&partial)?;
    std::os::unix::fs::symlink(name, &partial).and_then(|()| fs::rename(&partial, link)).map_err(|e| Error::io(link, e))
}

/// The name a link points at.
#[cfg(unix)]
fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.to_string_lossy().into_owned())
}

/// Where links need privileges: a copy, with a file that names its origin.
#[cfg(not(unix))]
fn point(link: &Path, name: &str) -> Result<()> {
    let from = link.with_file_name(name);
    let partial = link.with_extension("partial");
    remove_if_present(&partial)?;
    let copy = || -> std::io::Result<()> {
        fs::create_dir(&partial)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            fs::copy(entry.path(), partial.join(entry.file_name()))?;
        }
        fs::write(partial.join(ORIGIN), name)
    };
    copy().map_err(|e| Error::io(link, e))?;
    remove_if_present(link)?;
    fs::rename(&partial, link).map_err(|e| Error::io(link, e))
}

#[cfg(not(unix))]
const ORIGIN: &str = "origin.txt";

/// The name a copy was made from.
#[cfg(not(unix))]
fn target(link: &Path) -> Option<String> {
    fs::read_to_string(link.join(ORIGIN)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let temp = tempfile::tempdir().unwrap();
        let run = RunFolder::create(&temp.path().join("runs/a"), "seed = 0\n").unwrap();
        (temp, run)
    }

    fn save(content: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("model.safetensors"), content).unwrap();
            Ok(())
        }
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn links_follow_the_latest_and_the_best() {
        let (_temp, run) = folder();
        let state = TrainingState::default();
        let checkpoints = run.path().join(CHECKPOINTS);
        run.checkpoint("epoch_1", true, false, &state, save("one")).unwrap();
        assert!(RunFolder::latest(run.path()).join(STATE_FILE).exists());
        run.checkpoint("epoch_2", false, false, &state, save("two")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "epoch_2", "latest"]);
        let read = |folder: PathBuf| fs::read_to_string(folder.join("model.safetensors")).unwrap();
        assert_eq!(read(RunFolder::best(run.path())), "one");
        assert_eq!(read(RunFolder::latest(run.path())), "two");
        // Only the latest can be continued.
        assert!(!checkpoints.join("epoch_1").join(STATE_FILE).exists());

        run.checkpoint("epoch_3", false, false, &state, save("three")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "epoch_3", "latest"]);
        run.checkpoint("epoch_4", true, true, &state, save("four")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "epoch_3", "epoch_4", "latest"]);
    }

    #[test]
    fn a_failed_checkpoint_leaves_nothing_and_harms_nothing() {
        let (_temp, run) = folder();
        let state = TrainingState::default();
        run.checkpoint("epoch_1", true, false, &state, save("one")).unwrap();
        let failing = |path: &Path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("model.safetensors"), "half").unwrap();
            Err(Error::config("", "disk full"))
        };
        assert!(run.checkpoint("epoch_2", true, false, &state, failing).is_err());
        assert_eq!(names(&run.path().join(CHECKPOINTS)), ["best", "epoch_1", "latest"]);
        // A folder that never appeared: the state cannot be written into it.
        assert!(run.checkpoint("epoch_2", true, false, &state, |_| Ok(())).is_err());
        assert_eq!(names(&run.path().join(CHECKPOINTS)), ["best", "epoch_1", "latest"]);
    }

    #[test]
    fn what_a_killed_process_left_is_replaced() {
        let (_temp, run) = folder();
        for name in [".epoch_1.partial", "..epoch_1.partial.new-77"] {
            let partial = run.path().join(CHECKPOINTS).join(name);
            fs::create_dir(&partial).unwrap();
            fs::write(partial.join("model.safetensors"), "half").unwrap();
        }
        run.checkpoint("epoch_1", true, false, &TrainingState::default(), save("one")).unwrap();
        assert_eq!(names(&run.path().join(CHECKPOINTS)), ["best", "epoch_1", "latest"]);
    }

    #[test]
    fn a_checkpoint_between_evaluations_gives_way() {
        let (_temp, run) = folder();
        let state = TrainingState::default();
        let checkpoints = run.path().join(CHECKPOINTS);
        run.checkpoint("epoch_1", true, true, &state, save("one")).unwrap();
        run.checkpoint("step_7", false, true, &state, save("seven")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "latest", "step_7"]);
        assert!(RunFolder::latest(run.path()).join(STATE_FILE).exists());
        run.checkpoint("step_9", false, true, &state, save("nine")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "latest", "step_9"]);
        run.checkpoint("epoch_2", false, true, &state, save("two")).unwrap();
        assert_eq!(names(&checkpoints), ["best", "epoch_1", "epoch_2", "latest"]);
    }

    #[test]
    fn a_reopened_run_forgets_what_came_after_its_checkpoint() {
        let (_temp, run) = folder();
        let path = run.path().to_owned();
        let message = RunFolder::reopen(&path, 3).unwrap_err().to_string();
        assert!(message.contains("another process"), "{message}");
        assert_eq!(RunFolder::is_open(&path).unwrap(), Some(true));
        drop(run);
        assert_eq!(RunFolder::is_open(&path).unwrap(), Some(false));
        let kept = "{\"event\":\"start\"}\n{\"event\":\"step\",\"step\":3}\n{\"event\":\"checkpoint\"}\n";
        for later in
            ["", "{\"event\":\"step\",\"step\":4}\n{\"event\":\"eval\",\"step\":4}\n", "{\"event\":\"st", "\0\0\n"]
        {
            fs::write(path.join(METRICS), format!("{kept}{later}")).unwrap();
            let mut run = RunFolder::reopen(&path, 3).unwrap();
            run.log(&Event::Warning { message: "on".to_owned() }).unwrap();
            let text = fs::read_to_string(path.join(METRICS)).unwrap();
            assert_eq!(text.strip_prefix(kept), Some("{\"event\":\"warning\",\"message\":\"on\"}\n"), "{later}");
        }
    }

    #[test]
    fn a_run_is_not_written_over() {
        let (_temp, run) = folder();
        let message = RunFolder::create(run.path(), "").unwrap_err().to_string();
        assert!(message.contains("runs/a") && message.contains("already"), "{message}");
        assert_eq!(fs::read_to_string(run.path().join(CONFIG)).unwrap(), "seed = 0\n");
    }

    #[test]
    fn events_are_lines_of_json() {
        let (_temp, mut run) = folder();
        run.log(&Event::Warning { message: "one\ntwo".to_owned() }).unwrap();
        run.log(&Event::Skipped { what: "a.wav".to_owned(), reason: "empty".to_owned() }).unwrap();
        let text = fs::read_to_string(run.path().join(METRICS)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["event"], &lines[1]["what"]), (&"warning".into(), &"a.wav".into()));
    }
}
