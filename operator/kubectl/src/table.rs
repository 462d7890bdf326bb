//! Text in columns, as kubectl shows it, and figures as people read them.
//!
//! Invariants: no line ends in a blank; a column is as wide as its widest cell.

/// Rows under a header, two blanks between columns, `indent` blanks before each line.
pub(crate) fn table(indent: usize, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = " ".repeat(indent);
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width + 2 - cell.chars().count()));
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes with three figures at most: `731 B`, `1.5 GiB`, `120 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    // The last unit that leaves at least one before the point.
    let power = (63 - count.leading_zeros()) / 10;
    let unit = 1_u64 << (10 * power);
    let (whole, tenths) = (
        count / unit,
        u128::from(count % unit) * 10 / u128::from(unit),
    );
    let name = UNITS[power as usize - 1];
    if whole < 100 && tenths > 0 {
        format!("{whole}.{tenths} {name}")
    } else {
        format!("{whole} {name}")
    }
}

/// A length of time in its two largest units: `45s`, `3m20s`, `2h5m`, `3d4h`.
pub(crate) fn seconds(count: u64) -> String {
    let (days, hours, minutes, rest) = (
        count / 86_400,
        count / 3_600 % 24,
        count / 60 % 60,
        count % 60,
    );
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest}s"),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["rv/records".to_owned(), "in sync".to_owned()],
            vec!["rv/a".to_owned(), String::new()],
        ];
        assert_eq!(
            table(2, &["VOLUME", "MIRROR"], &rows),
            "  VOLUME      MIRROR\n  rv/records  in sync\n  rv/a\n"
        );
    }

    #[test]
    fn figures_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (100 << 30, "100 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (count, text) in [
            (0, "0s"),
            (59, "59s"),
            (200, "3m20s"),
            (7_500, "2h5m"),
            (273_600, "3d4h"),
        ] {
            assert_eq!(seconds(count), text);
        }
    }
}
