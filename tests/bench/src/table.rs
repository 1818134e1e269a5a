//! Numbers summed up, and Markdown tables of them.

use std::time::Duration;

/// A Markdown table: the first column to the left, the others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with a head.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            write!(f, "| {:<1$} |", row[0], widths[0])?;
            for column in 1..columns {
                write!(f, " {:>1$} |", row[column], widths[column])?;
            }
            writeln!(f)?;
            if number == 0 {
                write!(f, "|{}|", "-".repeat(widths[0] + 2))?;
                widths[1..].iter().try_for_each(|width| write!(f, "{}:|", "-".repeat(width + 1)))?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

/// Least, middle and greatest of some numbers.
pub(crate) fn spread(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => [f64::NAN; 3],
        all => [all[0], all[all.len() / 2], all[all.len() - 1]],
    }
}

/// The duration that this part (0 to 1) of all does not exceed; the slice must be sorted.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
}

/// Milliseconds with three digits that count.
pub(crate) fn milliseconds(duration: Duration) -> String {
    digits(duration.as_secs_f64() * 1e3)
}

/// About three digits that count.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let mut table = Table::new(&["what", "ms"]);
        table.row(vec!["create".into(), "0.5".into()]);
        assert_eq!(table.to_string(), "| what   |  ms |\n|--------|----:|\n| create | 0.5 |\n");
    }

    #[test]
    fn sums() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        let hundred: Vec<Duration> = (1..=101).map(Duration::from_millis).collect();
        assert_eq!(percentile(&hundred, 0.5), Duration::from_millis(51));
        assert_eq!(percentile(&hundred, 0.99), Duration::from_millis(100));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
        assert_eq!([digits(699.4), digits(12.34), digits(0.1234), digits(0.01234)], ["699", "12.3", "0.123", "0.0123"]);
    }
}
