//! The report as a page: one file, curves as SVG, nothing to fetch.

use std::fmt::{Result, Write as _};

use html_escape::encode_text;

use super::{Drawn, Report};

/// Clips left out that are listed; the log has all.
const LISTED: usize = 100;
/// Curves that stand beside the metrics they are of.
const OF_METRICS: [&str; 2] = ["retrieval", "zero_shot"];

impl Report {
    /// The whole document.
    pub(super) fn page(&self) -> String {
        let mut html = String::new();
        self.write_page(&mut html).expect("writing to a String cannot fail");
        html
    }

    fn write_page(&self, html: &mut String) -> Result {
        let name = encode_text(&self.name);
        write!(
            html,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\">\n<title>{name}</title>\n<style>\n{}</style></head>\n<body>\n<h1>{name}</h1>\n",
            include_str!("page/style.css")
        )?;
        self.head(html)?;
        self.cards(html)?;
        self.warnings(html)?;
        self.metrics(html)?;
        self.curves(html)?;
        self.skipped(html)?;
        write!(
            html,
            "<details><summary>Configuration</summary><pre>{}</pre></details>\n</body></html>\n",
            encode_text(&self.config_text)
        )
    }

    /// What was trained on what.
    fn head(&self, html: &mut String) -> Result {
        let mut parts = vec![format!("CLAP training run, {}", self.ending())];
        if let Some(start) = &self.history.start {
            parts.push(format!("{:.2} M trainable parameters", start.parameters as f64 / 1e6));
            parts.push(format!("{} training clips", start.train_clips));
            if start.valid_clips > 0 {
                parts.push(format!("{} validation clips of {} classes", start.valid_clips, start.classes));
            }
        }
        parts.push(format!("seed {}", self.config.seed));
        writeln!(html, "<p>{}</p>", encode_text(&parts.join(" · ")))
    }

    /// The numbers to be seen first.
    fn cards(&self, html: &mut String) -> Result {
        let done = &self.done;
        html.push_str("<div class=\"cards\">\n");
        let mut card = |value: &str, name: &str, class: &str| {
            writeln!(html, "<div{class}><b>{}</b><span>{}</span></div>", encode_text(value), encode_text(name))
        };
        if let Some(best) = self.history.best() {
            let name = format!("best mean of {} metrics, epoch {}", self.config.eval.select.len(), done.best_epoch);
            card(&format!("{:.3}", best.selected), &name, "")?;
        }
        card(&done.epochs.to_string(), "epochs", "")?;
        card(&done.steps.to_string(), &format!("steps of {} clips", self.config.data.batch_size), "")?;
        card(&duration(done.elapsed), "in all", "")?;
        card(&format!("{:.0}", done.clips_per_second), "training clips/s", "")?;
        card(&format!("{:.1} %", 100.0 * done.data_wait), "waiting for data", "")?;
        if let Some(memory) = self.history.peak_memory() {
            card(&format!("{:.2} GB", memory as f64 / 1e9), "resident memory at most", "")?;
        }
        let excluded = self.history.start.as_ref().map_or(0, |start| start.excluded_clips);
        if excluded > 0 {
            card(&excluded.to_string(), "clips excluded by a list", "")?;
        }
        const FAULT: &str = " class=\"fault\"";
        let faults = [
            (done.skipped, ["clip left out", "clips left out"]),
            (self.history.warnings.len(), ["warning", "warnings"]),
        ];
        for (count, [one, many]) in faults.into_iter().filter(|(count, _)| *count > 0) {
            card(&count.to_string(), if count == 1 { one } else { many }, FAULT)?;
        }
        html.push_str("</div>\n");
        Ok(())
    }

    fn warnings(&self, html: &mut String) -> Result {
        if self.history.warnings.is_empty() {
            return Ok(());
        }
        html.push_str("<h2>Warnings</h2>\n<ul>\n");
        for message in &self.history.warnings {
            writeln!(html, "<li>{}</li>", encode_text(message))?;
        }
        html.push_str("</ul>\n");
        Ok(())
    }

    fn metrics(&self, html: &mut String) -> Result {
        html.push_str("<h2>Validation</h2>\n");
        if self.rows.is_empty() {
            html.push_str("<p>The run has no evaluation.</p>\n");
            return Ok(());
        }
        let (on, split) = self.validated_on();
        write!(html, "<p>On <code>{}</code>", encode_text(&on))?;
        if let Some(split) = split {
            write!(html, ", split <code>{}</code>", encode_text(split))?;
        }
        let last = self.history.evals.last().map_or(0, |eval| eval.epoch);
        write!(
            html,
            ".</p>\n<div class=\"beside\"><div class=\"wide\"><table>\n<thead><tr><th></th><th>best <small>epoch {}</small></th>\
             <th>last <small>epoch {last}</small></th><th>chance</th></tr></thead>\n",
            self.done.best_epoch
        )?;
        for row in &self.rows {
            let [best, last, chance] = row.cells();
            writeln!(
                html,
                "<tr><th>{}</th><td>{best}</td><td>{last}</td><td>{chance}</td></tr>",
                encode_text(row.label)
            )?;
        }
        write!(html, "</table>\n<p>{}</p></div>\n<div class=\"plots\">\n", encode_text(&self.note()))?;
        for curve in self.curves.iter().filter(|curve| OF_METRICS.contains(&curve.name)) {
            writeln!(html, "<figure>{}</figure>", curve.svg)?;
        }
        html.push_str("</div></div>\n");
        Ok(())
    }

    fn curves(&self, html: &mut String) -> Result {
        let mut curves = self.curves.iter().filter(|curve| !OF_METRICS.contains(&curve.name)).peekable();
        if curves.peek().is_none() {
            return Ok(());
        }
        html.push_str("<h2>Training</h2>\n<div class=\"plots\">\n");
        for Drawn { svg, .. } in curves {
            writeln!(html, "<figure>{svg}</figure>")?;
        }
        html.push_str("</div>\n");
        Ok(())
    }

    fn skipped(&self, html: &mut String) -> Result {
        let skipped = &self.history.skipped;
        if skipped.is_empty() {
            return Ok(());
        }
        writeln!(html, "<details><summary>Clips left out ({})</summary>\n<ul>", skipped.len())?;
        for (what, reason) in skipped.iter().take(LISTED) {
            writeln!(html, "<li><code>{}</code> {}</li>", encode_text(what), encode_text(reason))?;
        }
        html.push_str("</ul>\n");
        if skipped.len() > LISTED {
            writeln!(html, "<p>and {} more, in metrics.jsonl</p>", skipped.len() - LISTED)?;
        }
        html.push_str("</details>\n");
        Ok(())
    }
}

/// `7:59 min`, `3:05 h`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    if seconds < 3600 {
        format!("{}:{:02} min", seconds / 60, seconds % 60)
    } else {
        format!("{}:{:02} h", seconds / 3600, seconds % 3600 / 60)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations_are_short() {
        assert_eq!(super::duration(479.2), "7:59 min");
        assert_eq!(super::duration(11_130.0), "3:05 h");
    }
}
