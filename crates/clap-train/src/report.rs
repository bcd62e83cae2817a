//! The report of a run, as Markdown and as a page: its last numbers beside chance, its speed and its curves.
//!
//! All of it comes from `config.toml` and `metrics.jsonl`, so a report can be made again from the folder alone.

mod charts;
mod page;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap_eval::{HEADLINES, Headline};

use self::charts::Curve;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::event::{Done, Ending};
use crate::history::History;
use crate::run_folder::{RunFolder, write_atomically};

/// One metric of the final table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it measures, for people.
    pub label: &'static str,
    /// Its name in [`crate::Metrics`].
    pub name: &'static str,
    /// At the best evaluation.
    pub best: Option<f64>,
    /// At the last evaluation.
    pub last: Option<f64>,
    /// What guessing gives, where that is known.
    pub chance: Option<f64>,
}

impl Row {
    /// Best, last and chance as they are written; a dash where there is none.
    fn cells(&self) -> [String; 3] {
        [self.best, self.last, self.chance].map(|value| value.map_or_else(|| "–".to_owned(), number))
    }
}

/// The final table; metrics that the run has not measured are left out.
#[must_use]
pub fn table(done: &Done) -> Vec<Row> {
    let row = |&Headline { label, name, chance }: &Headline| Row {
        label,
        name,
        best: done.best.get(name).copied(),
        last: done.last.get(name).copied(),
        chance: chance.and_then(|chance| done.last.get(chance).copied()),
    };
    HEADLINES.iter().map(row).filter(|row| row.best.is_some() || row.last.is_some()).collect()
}

/// Writes `report.html`, `report.md` and `curves/*.svg` into the run's folder, from its configuration and its log; also those
/// of a run that goes on or was killed.
///
/// # Errors
/// Where `config.toml` or `metrics.jsonl` cannot be read or a file cannot be written.
pub fn write(run: &Path) -> Result<()> {
    let history = History::open(run)?;
    let path = RunFolder::config(run);
    let config_text = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let config = TrainConfig::load(&path)?;
    let done = history.done();
    let rows = table(&done);
    let curves = run.join("curves");
    fs::create_dir_all(&curves).map_err(|e| Error::io(&curves, e))?;
    let mut drawn = Vec::new();
    for Curve { name, chart } in charts::of(&history) {
        let svg = chart.to_svg();
        write_atomically(&curves.join(format!("{name}.svg")), svg.as_bytes())?;
        drawn.push(Drawn { name, title: chart.title, svg });
    }
    let report = Report { name: name(run), config, config_text, history, done, rows, curves: drawn };
    write_atomically(&run.join("report.md"), report.markdown().as_bytes())?;
    write_atomically(&run.join("report.html"), report.page().as_bytes())
}

/// What both forms of a report are made of.
struct Report {
    name: String,
    config: TrainConfig,
    config_text: String,
    history: History,
    done: Done,
    rows: Vec<Row>,
    curves: Vec<Drawn>,
}

/// A curve as it is drawn.
struct Drawn {
    /// That of its file in `curves/`, without the ending.
    name: &'static str,
    title: String,
    svg: String,
}

impl Report {
    fn ending(&self) -> &'static str {
        match self.done.ending {
            Ending::Unfinished => "not over",
            Ending::Epochs => "all epochs done",
            Ending::Time => "the time budget was spent",
            Ending::Requested => "stopped on request",
            Ending::Data => "the stream of training clips ended",
        }
    }

    /// The validation data and the split of it.
    fn validated_on(&self) -> (String, Option<&str>) {
        let on = self.config.data.valid.as_deref().unwrap_or(Path::new(""));
        (on.display().to_string(), self.config.data.valid_split.as_deref())
    }

    /// How far the numbers can be trusted.
    fn note(&self) -> String {
        format!(
            "The best checkpoint has the greatest mean of {}. It was chosen on these same clips, so its numbers are a little \
             optimistic; those of the last one are not chosen.",
            self.config.eval.select.join(", ")
        )
    }

    fn markdown(&self) -> String {
        let done = &self.done;
        let mut text = format!(
            "# CLAP training run `{}`\n\n\
             {} steps of {} clips in {:.1} minutes ({}), epoch {}, {:.0} training clips/s, {:.0} % of the \
             time waiting for data, {} clips left out, seed {}. \
             The whole configuration is in [config.toml](config.toml), every event in [metrics.jsonl](metrics.jsonl); \
             [report.html](report.html) is this as a page.\n\n",
            self.name,
            done.steps,
            self.config.data.batch_size,
            done.elapsed / 60.0,
            self.ending(),
            done.epochs,
            done.clips_per_second,
            done.data_wait * 100.0,
            done.skipped,
            self.config.seed,
        );
        if self.rows.is_empty() {
            text.push_str("The run had no validation clips.\n\n");
        } else {
            let (on, split) = self.validated_on();
            let split = split.map(|split| format!(", split `{split}`")).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "## Validation (`{on}`{split})\n\n\
                 | metric | [best](checkpoints/best) (epoch {}) | [last](checkpoints/latest) | chance |\n|---|---:|---:|---:|",
                done.best_epoch
            );
            for row in &self.rows {
                let _ = writeln!(text, "| {} | {} |", row.label, row.cells().join(" | "));
            }
            let _ = writeln!(text, "\n{}\n", self.note());
        }
        if !self.curves.is_empty() {
            text.push_str("## Curves\n\n");
        }
        for Drawn { name, title, .. } in &self.curves {
            let _ = writeln!(text, "![{title}](curves/{name}.svg)\n");
        }
        text
    }
}

/// What the run at `run` is called: its folder's name, also where the path is `.`.
fn name(run: &Path) -> String {
    let whole = run.canonicalize();
    whole.as_deref().unwrap_or(run).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Three decimals for shares, one for ranks.
fn number(value: f64) -> String {
    if value <= 1.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eval, Event, Metrics};

    fn done() -> Done {
        let metrics: Metrics = [
            ("text_to_audio_R@10", 0.6401),
            ("chance_R@10", 0.06),
            ("zeroshot_acc5", 0.5),
            ("zeroshot_chance_acc5", 0.0465),
            ("audio_to_text_median_rank", 7.0),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        Done {
            ending: Ending::Time,
            steps: 300,
            epochs: 12,
            clips_seen: 19_200,
            clips_per_second: 81.6,
            data_wait: 0.02,
            elapsed: 470.0,
            skipped: 1,
            last: metrics.clone(),
            best: metrics,
            best_epoch: 11,
        }
    }

    #[test]
    fn the_table_sets_numbers_beside_chance() {
        let rows = table(&done());
        assert_eq!(
            rows.iter().map(|r| r.name).collect::<Vec<_>>(),
            ["zeroshot_acc5", "audio_to_text_median_rank", "text_to_audio_R@10"]
        );
        assert_eq!(rows[2].chance, Some(0.06));
        assert_eq!(rows[0].chance, Some(0.0465));
        assert_eq!(rows[1].chance, None);
    }

    /// A run's folder with some evaluations in its log, and what writes to it.
    fn evaluated(config: &TrainConfig) -> (tempfile::TempDir, RunFolder) {
        let temp = tempfile::tempdir().unwrap();
        let mut run = RunFolder::create(&temp.path().join("a<b"), &config.to_toml().unwrap()).unwrap();
        for step in 0..3 {
            let eval = Eval { step, epoch: step, metrics: done().last, selected: 0.6, best: true, seconds: 1.0 };
            run.log(&Event::Eval(eval)).unwrap();
        }
        (temp, run)
    }

    fn written(run: &RunFolder, name: &str) -> String {
        write(run.path()).unwrap();
        fs::read_to_string(run.path().join(name)).unwrap()
    }

    #[test]
    fn a_report_links_only_what_exists() {
        let (_temp, mut run) = evaluated(&TrainConfig::default());
        assert!(written(&run, "report.md").contains("(not over)"));
        run.log(&Event::Done(done())).unwrap();
        let text = written(&run, "report.md");
        assert!(text.contains("300 steps") && text.contains("(the time budget was spent)"), "{text}");
        assert!(text.contains("| text→audio R@10 | 0.640 | 0.640 | 0.060 |"), "{text}");
        assert!(text.contains("| audio→text median rank | 7.0 | 7.0 | – |"), "{text}");
        let linked: Vec<&str> =
            text.match_indices("(curves/").map(|(i, _)| text[i + 1..].split(')').next().unwrap()).collect();
        assert_eq!(linked, ["curves/retrieval.svg", "curves/zero_shot.svg"]);
        assert!(linked.iter().all(|file| run.path().join(file).is_file()));
    }

    #[test]
    fn the_page_stands_alone() {
        let mut config = TrainConfig::default();
        config.eval.template = "</pre><script>{label}".to_owned();
        let (_temp, mut run) = evaluated(&config);
        run.log(&Event::Warning { message: "1 < 2".to_owned() }).unwrap();
        run.log(&Event::Skipped { what: "a & b.wav".to_owned(), reason: "empty".to_owned() }).unwrap();
        run.log(&Event::Done(done())).unwrap();
        let page = written(&run, "report.html");
        for part in [
            "<title>a&lt;b</title>",
            "1 &lt; 2",
            "a &amp; b.wav",
            "&lt;/pre&gt;&lt;script&gt;{label}",
            "<td>0.640</td>",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        for foreign in ["<script", "<link", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
