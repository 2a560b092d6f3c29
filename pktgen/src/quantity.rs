//! Quantities as people read and write them: rates, times, shares, counts.

use std::fmt::Write;

/// A number to `digits` significant digits, without an exponent: `1.021`, `10.2`, `987`. What is not finite is a figure that
/// nothing stands behind, and is written as such.
fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    // The magnitude is taken after rounding: 9.9996 is 10.00, not 10.000.
    let rounded = format!("{value:.0$e}", digits - 1);
    let magnitude: i32 =
        rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).expect("that is the format asked for");
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A number with the largest of `steps` (factor and name, falling) that is not greater than it.
fn stepped(value: f64, digits: usize, steps: &[(f64, &str)]) -> String {
    if !value.is_finite() {
        return significant(value, digits);
    }
    // What rounds up to the next step is written in that step: 999.99 k is 1.000 M.
    let rounded = |factor: f64| significant(value / factor, digits).parse::<f64>().expect("a number was just written");
    let &(factor, name) = steps
        .iter()
        .find(|(factor, _)| rounded(*factor).abs() >= 1.0)
        .or(steps.last())
        .expect("every quantity has a unit");
    let number = significant(value / factor, digits);
    if name.is_empty() { number } else { format!("{number} {name}") }
}

/// A quantity with SI prefixes from thousands up: `1.021 Mpps`, `12.00 Gbit/s`, `512 pps`.
pub fn si(value: f64, unit: &str) -> String {
    if value.abs() < 1000.0 && value.fract() == 0.0 {
        return format!("{value} {unit}");
    }
    let names = ["T", "G", "M", "k", ""].map(|prefix| format!("{prefix}{unit}"));
    let factors = [1e12, 1e9, 1e6, 1e3, 1.0];
    let steps: Vec<_> = factors.into_iter().zip(names.iter().map(String::as_str)).collect();
    stepped(value, 4, &steps)
}

/// Packets per second: `1.021 Mpps`.
pub fn pps(value: f64) -> String {
    si(value, "pps")
}

/// Bits per second: `9.412 Gbit/s`.
pub fn bps(value: f64) -> String {
    si(value, "bit/s")
}

/// A time given in nanoseconds: `740 ns`, `12.3 µs`, `1.05 ms`, `2.00 s`.
pub fn time(ns: f64) -> String {
    if ns < 1000.0 && ns.fract() == 0.0 {
        return format!("{ns} ns");
    }
    stepped(ns, 3, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")])
}

/// A share (0 to 1) in percent: `0%`, `0.0012%`, `12.5%`.
pub fn share(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let percent = significant(value * 100.0, 3);
    let percent = if percent.contains('.') { percent.trim_end_matches('0').trim_end_matches('.') } else { &percent };
    format!("{percent}%")
}

/// A percentile's name by its share: `p50`, `p99.9`.
pub fn percentile(share: f64) -> String {
    // Shares are decimal fractions; nine decimals hide that floating point has no such thing.
    let text = format!("{:.7}", share * 100.0);
    format!("p{}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A count with its thousands apart: `12,345,678`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A quantity of a [`Finding`](crate::report::model::Finding), by its unit.
pub fn of_unit(value: f64, unit: &str) -> String {
    match unit {
        _ if !value.is_finite() => "unknown".to_owned(),
        "pps" => pps(value),
        "bps" => bps(value),
        "ns" => time(value),
        "share" => share(value),
        _ if value.fract() == 0.0 && value >= 0.0 => format!("{} {unit}", count(value as u64)),
        _ => format!("{} {unit}", significant(value, 4)),
    }
}

/// A length of time in seconds: `800 ms`, `9.5 s`, `2 min 5 s`.
pub fn seconds(value: f64) -> String {
    if value < 1.0 {
        return format!("{:.0} ms", value * 1e3);
    }
    if value < 60.0 {
        return format!("{} s", (value * 10.0).round() / 10.0);
    }
    let whole = value.round() as u64;
    let mut text = String::new();
    for (length, name) in [(3600, "h"), (60, "min")] {
        if whole >= length {
            let _ = write!(text, "{} {name} ", whole / length % 60);
        }
    }
    let _ = write!(text, "{} s", whole % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_four_digits_and_a_prefix() {
        assert_eq!(pps(0.0), "0 pps");
        assert_eq!(pps(512.0), "512 pps");
        assert_eq!(pps(999.96), "1.000 kpps");
        assert_eq!(pps(1_020_999.0), "1.021 Mpps");
        assert_eq!(pps(999_999.0), "1.000 Mpps");
        assert_eq!(pps(0.25), "0.2500 pps");
        assert_eq!(bps(9_412_345_678.0), "9.412 Gbit/s");
    }

    #[test]
    fn what_is_not_finite_has_no_figure() {
        for value in [f64::NAN, f64::INFINITY] {
            let written = [pps(value), time(value), share(value), of_unit(value, "packets")];
            assert!(written.iter().all(|text| text == "unknown"), "{written:?}");
        }
    }

    #[test]
    fn times_go_from_nanoseconds_to_seconds() {
        assert_eq!(time(740.0), "740 ns");
        assert_eq!(time(12_345.0), "12.3 µs");
        assert_eq!(time(999_960.0), "1.00 ms");
        assert_eq!(time(2e9), "2.00 s");
        assert_eq!(time(0.5), "0.500 ns");
    }

    #[test]
    fn shares_are_percent_without_trailing_zeros() {
        assert_eq!(share(0.0), "0%");
        assert_eq!(share(0.000_012), "0.0012%");
        assert_eq!(share(0.125), "12.5%");
        assert_eq!(share(1.0), "100%");
    }

    #[test]
    fn percentiles_are_named_as_people_write_them() {
        assert_eq!(percentile(0.5), "p50");
        assert_eq!(percentile(0.999), "p99.9");
        assert_eq!(percentile(0.99999), "p99.999");
    }

    #[test]
    fn counts_and_lengths() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(12_345_678), "12,345,678");
        assert_eq!(seconds(0.8), "800 ms");
        assert_eq!(seconds(9.54), "9.5 s");
        assert_eq!(seconds(125.0), "2 min 5 s");
        assert_eq!(seconds(3601.0), "1 h 0 min 1 s");
        assert_eq!(of_unit(4096.0, "packets"), "4,096 packets");
        assert_eq!(of_unit(1234.5, "connections/s"), "1234 connections/s");
    }
}
