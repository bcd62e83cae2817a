//! Metrics as a person reads them: the number, and chance beside it.

use clap_train::Metrics;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

/// Tables of zero-shot classification and of retrieval, as far as the metrics go.
pub(crate) fn metrics(metrics: &Metrics) -> String {
    let number = |name: &str| metrics.get(name).map_or_else(String::new, |value| format!("{value:.3}"));
    let count = |name: &str| metrics.get(name).map_or_else(|| "?".to_owned(), |value| format!("{value:.0}"));

    let mut tables = Vec::new();
    if metrics.contains_key("zeroshot_acc1") {
        let title = format!(
            "zero-shot classification, {} clips, {} classes",
            count("zeroshot_num_samples"),
            count("zeroshot_num_classes")
        );
        let mut table = new_table(&[&title, "value", "chance"]);
        for (label, name) in [
            ("top-1 accuracy", "acc1"),
            ("top-5 accuracy", "acc5"),
            ("macro recall", "mean_per_class_recall"),
            ("mAP@10", "mAP@10"),
            ("median rank", "median_rank"),
        ] {
            let chance = match name {
                // A guess is right for each class equally often.
                "mean_per_class_recall" => number("zeroshot_chance_acc1"),
                _ => number(&format!("zeroshot_chance_{name}")),
            };
            table.add_row([label.to_owned(), number(&format!("zeroshot_{name}")), chance]);
        }
        tables.push(table.to_string());
    }
    if metrics.contains_key("audio_to_text_R@1") {
        let title = format!("retrieval, {} clips, {} captions", count("num_samples"), count("num_captions"));
        let mut table = new_table(&[&title, "audio→text", "text→audio", "chance"]);
        for (label, name) in
            [("R@1", "R@1"), ("R@5", "R@5"), ("R@10", "R@10"), ("mAP@10", "mAP@10"), ("median rank", "median_rank")]
        {
            table.add_row([
                label.to_owned(),
                number(&format!("audio_to_text_{name}")),
                number(&format!("text_to_audio_{name}")),
                number(&format!("chance_{name}")),
            ]);
        }
        tables.push(table.to_string());
    }
    tables.join("\n")
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
