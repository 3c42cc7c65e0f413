//! A report as plain text.

use std::fmt::Write;

use guard_core::visible;

use super::Report;
use super::table::{Table, tables};

pub(super) fn render(report: &Report) -> String {
    tables(report).iter().map(render_table).collect::<Vec<_>>().join("\n")
}

fn render_table(table: &Table) -> String {
    let header: Vec<String> = table.header.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().chain([&header]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = format!("{}\n", table.title);
    for row in std::iter::once(&header).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match column < table.names {
                true => write!(line, "  {cell:<width$}"),
                false => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn tables_line_up_and_hold_the_numbers() {
        let text = report().to_text();
        let line = text.lines().find(|line| line.contains("good & fast")).unwrap();
        assert!(line.contains("mine <script>"), "{line}");
        assert!(text.contains("Is the request harmful? (policy strict)"));
        assert!(text.contains("Differences of strict F1"));
        assert!(text.contains("no block of answers"));
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut report = report();
        report.summaries[0].system = "\x1b[2Jx".to_owned();
        assert!(!report.to_text().contains('\x1b'));
    }
}
