//! A report in Markdown.

use guard_core::is_hidden;

use super::Report;
use super::table::{Table, breakdown, tables};

pub(super) fn render(report: &Report) -> String {
    let parts = Some(breakdown(report)).filter(|table| !table.rows.is_empty());
    let tables: Vec<String> = tables(report).iter().chain(&parts).map(render_table).collect();
    format!("# Evaluation\n\n{}", tables.join("\n"))
}

fn render_table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let header = line(table.header.iter().map(|&name| name.to_owned()).collect());
    let align = |column: usize| if column < table.names { "---" } else { "---:" }.to_owned();
    let rule = line((0..table.header.len()).map(align).collect());
    let rows = table.rows.iter().map(|row| line(row.iter().map(|cell| escaped(cell)).collect()));
    format!("## {}\n\n{header}{rule}{}", table.title, rows.collect::<String>())
}

/// Names come from files: nothing of them is markup.
fn escaped(cell: &str) -> String {
    let mut out = String::with_capacity(cell.len());
    for c in cell.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '!' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c if is_hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn rows_have_the_columns_of_the_header_and_no_markup() {
        let mut report = report();
        report.summaries[0].system = "a|b `c` <i>".to_owned();
        let text = report.to_markdown();
        assert!(text.contains("a\\|b \\`c\\` &lt;i&gt;"), "{text}");
        let mut columns = 0;
        for line in text.lines().filter(|line| line.starts_with('|')) {
            let count = line.replace("\\|", "").matches('|').count();
            if line.starts_with("| ---") {
                assert_eq!(count, columns);
            }
            columns = count;
        }
    }
}
