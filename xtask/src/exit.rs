//! What the process returns: 0 done, 1 nothing found or a threshold not met, 2 usage, 3 input data, 4 model or hub,
//! 5 device.

use std::process::ExitCode;

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    NothingFound = 1,
    Usage = 2,
    Data = 3,
    Model = 4,
    Device = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error of the runner itself that already knows its kind.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with the exit code `exit`.
pub(crate) fn failure(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Failure { exit, message: message.into() }.into()
}

/// Prints what went wrong, cause by cause, and gives the code of its kind.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // Whoever reads our output may stop reading: `eval --json | head -1`.
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        return Exit::Done.into();
    }
    let mut told = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Messages that quote their cause are told once.
        if !told.contains(&text) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&text);
        }
    }
    eprintln!("error: {told}");
    kind(error).into()
}

/// The kind of an error: the outermost type that has one decides.
fn kind(error: &anyhow::Error) -> Exit {
    error.chain().find_map(kind_of).unwrap_or(Exit::Usage)
}

fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    use clap_encoders::Error as Model;
    use clap_train::Error as Train;
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = error.downcast_ref::<Train>() {
        return Some(match error {
            Train::Toml { .. } | Train::UnknownKey { .. } | Train::Config { .. } | Train::Features(_) => Exit::Usage,
            Train::Data { source, .. } => return kind_of(source),
            Train::BadClip { .. } | Train::NothingTrained { .. } | Train::Io { .. } => Exit::Data,
            Train::Model(model) => return kind_of(model),
            Train::Eval(eval) => return kind_of(eval),
            Train::Diverged { .. } | Train::State { .. } => Exit::Model,
            Train::Tensor(_) => Exit::Device,
            _ => return None,
        });
    }
    if let Some(error) = error.downcast_ref::<Model>() {
        return Some(match error {
            Model::Device { .. } | Model::Candle(_) => Exit::Device,
            // A front end that cannot be is the model folder's fault, not the sound's.
            Model::Audio(clap_audio::Error::Config { .. }) => Exit::Model,
            Model::Audio(_) | Model::Input { .. } => Exit::Data,
            _ => Exit::Model,
        });
    }
    if let Some(error) = error.downcast_ref::<clap_eval::Error>() {
        use clap_eval::Error as Eval;
        return Some(match error {
            Eval::Data(data) => return kind_of(data),
            Eval::Model(model) => return kind_of(model),
            Eval::Audio(clap_audio::Error::Config { .. }) => Exit::Model,
            Eval::NotFinite { .. } | Eval::ZeroRow { .. } => Exit::Model,
            Eval::UnknownMetric { .. } => Exit::Usage,
            Eval::Tensor(_) => Exit::Device,
            _ => Exit::Data,
        });
    }
    if let Some(data) = error.downcast_ref::<clap_data::Error>() {
        use clap_data::Error as Data;
        return Some(match data {
            Data::Template { .. }
            | Data::Separator { .. }
            | Data::NeedsFeature { .. }
            | Data::Fractions { .. }
            | Data::GroupColumn { .. } => Exit::Usage,
            _ => Exit::Data,
        });
    }
    error.is::<clap_audio::Error>().then_some(Exit::Data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_keeps_its_kind_under_context() {
        let data = clap_data::open(std::path::Path::new("no/such/folder"), &Default::default()).unwrap_err();
        let error = anyhow::Error::from(data).context("while opening");
        assert_eq!(kind(&error), Exit::Data);
        let error = Err::<(), _>(failure(Exit::NothingFound, "none")).context("outer").unwrap_err();
        assert_eq!(kind(&error), Exit::NothingFound);
        let device = clap_encoders::device("abacus").unwrap_err();
        assert_eq!(kind(&device.into()), Exit::Device);
        assert_eq!(kind(&anyhow::anyhow!("anything else")), Exit::Usage);
    }
}
