//! The report as a page: one file, nothing to fetch.

use std::fmt::Write as _;

use clap_train::plot::{Chart, Series};
use html_escape::encode_text;

use super::tables::{Cell, Table};
use super::{Gathered, Run, Split, figures};

const STYLE: &str = "svg{height:auto}
td small,th small{display:block;color:var(--soft);font-weight:400;white-space:nowrap}
td.best{font-weight:600}
.right{fill:var(--bar)}
.wrong{fill:var(--fault)}
.empty{fill:none;stroke:var(--line)}
svg .tiny{font-size:8px}
.map circle{stroke:var(--back);stroke-width:1}
.map [data-sound]{cursor:pointer}
.map [data-sound]:hover{stroke:var(--ink);stroke-width:2}
.pixels{image-rendering:pixelated}
nav{margin:14px 0}
nav a{margin-right:16px;color:var(--bar)}
";

/// The whole document; at most `sounds` clips of each map sound.
pub(super) fn page(gathered: &Gathered, tables: &[Table], sounds: usize) -> anyhow::Result<String> {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>CLAP evaluations</title>\n<style>\n{}{STYLE}</style></head>\n<body>\n<h1>Evaluations</h1>\n",
        include_str!("../dataset/page/style.css")
    );
    html.push_str("<nav>");
    for table in tables {
        write!(html, "<a href=\"#{}\">{}</a>", figures::anchor(&table.title), encode_text(&table.title))?;
    }
    html.push_str("</nav>\n");
    for table in tables {
        write_table(&mut html, table)?;
    }
    for split in &gathered.splits {
        pictures(&mut html, split, sounds)?;
    }
    curves(&mut html, &gathered.runs)?;
    html.push_str(figures::SCRIPT);
    html.push_str("</body></html>\n");
    Ok(html)
}

fn write_table(html: &mut String, table: &Table) -> std::fmt::Result {
    let Table { title, note, head, rows } = table;
    write!(
        html,
        "<h2 id=\"{}\">{}</h2>\n<p>{}</p>\n<div class=\"wide\"><table>\n<thead><tr>",
        figures::anchor(title),
        encode_text(title),
        encode_text(note)
    )?;
    for name in head {
        write!(html, "<th>{}</th>", encode_text(name))?;
    }
    html.push_str("</tr></thead>\n");
    for row in rows {
        html.push_str("<tr>");
        for Cell { text, small, best } in row {
            let class = if *best { " class=\"best\"" } else { "" };
            write!(html, "<td{class}>{}", encode_text(text))?;
            if !small.is_empty() {
                write!(html, "<small>{}</small>", encode_text(small))?;
            }
            html.push_str("</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    Ok(())
}

/// What one model makes of one split.
fn pictures(html: &mut String, split: &Split, sounds: usize) -> anyhow::Result<()> {
    let embedded = &split.embedded;
    let title = format!("{} on {}, split {}", split.model, embedded.dataset, embedded.split);
    write!(html, "<h2>{}</h2>\n<div class=\"plots\">\n", encode_text(&title))?;
    let mut figure = |title: &str, body: &str| {
        write!(html, "<figure><figcaption>{}</figcaption>\n{body}</figure>\n", encode_text(title))
    };
    figure("The space as a map", &figures::map(split, sounds)?)?;
    if let Some(found) = &split.outcome.zero_shot {
        figure("Confusions", &figures::confusion(found, &embedded.classes)?)?;
        let mut list = "<table>\n<thead><tr><th>truth</th><th>taken for</th><th>clips</th></tr></thead>\n".to_owned();
        for (truth, answer, clips, of) in figures::mistaken(found) {
            let [truth, answer] = [truth, answer].map(|class| encode_text(&embedded.classes[class]));
            writeln!(list, "<tr><td>{truth}</td><td>{answer}</td><td>{clips} of {of}</td></tr>")?;
        }
        list.push_str("</table>\n");
        figure("Most often mistaken", &list)?;
    }
    if let Some(found) = &split.outcome.multi_label {
        let mut classes: Vec<(f64, &String)> =
            found.ap_per_class.iter().zip(&embedded.classes).filter_map(|(ap, class)| Some(((*ap)?, class))).collect();
        classes.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut list = "<table>\n<thead><tr><th>class</th><th>average precision</th></tr></thead>\n".to_owned();
        for (ap, class) in classes {
            writeln!(list, "<tr><td>{}</td><td>{ap:.3}</td></tr>", encode_text(class))?;
        }
        list.push_str("</table>\n");
        figure("Classes", &list)?;
    }
    if let Some(heat_map) = figures::heat_map(embedded)? {
        figure("Clips and captions", &heat_map)?;
    }
    html.push_str("</div>\n");
    Ok(())
}

/// Training runs, a line each.
fn curves(html: &mut String, runs: &[Run]) -> anyhow::Result<()> {
    if runs.is_empty() {
        return Ok(());
    }
    html.push_str("<h2>Training runs</h2>\n<div class=\"plots\">\n");
    let loss = runs.iter().map(|run| {
        Series::new(&run.name, run.history.steps.iter().map(|step| (step.step as f64, step.loss)).collect())
    });
    let mut charts = vec![("Training loss".to_owned(), loss.collect::<Vec<_>>())];
    for headline in clap_eval::HEADLINES {
        let of_run = |run: &Run| {
            let points =
                run.history.evals.iter().filter_map(|eval| Some((eval.step as f64, *eval.metrics.get(headline.name)?)));
            Series::new(&run.name, points.collect())
        };
        let series: Vec<Series> = runs.iter().map(of_run).filter(|series| !series.points.is_empty()).collect();
        let is_curve =
            ["acc1", "mean_per_class_recall", "map", "R@10", "mAP@10"].iter().any(|end| headline.name.ends_with(end));
        if !series.is_empty() && is_curve {
            charts.push((headline.label.to_owned(), series));
        }
    }
    for (title, series) in charts {
        let chart = Chart { title, x_label: "step".to_owned(), from_zero: true, series };
        writeln!(html, "<figure>{}</figure>", chart.to_svg())?;
    }
    html.push_str("</div>\n");
    Ok(())
}
