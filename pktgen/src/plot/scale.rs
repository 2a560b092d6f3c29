//! Axes: how values become places, and where the ticks stand.

use crate::quantity;

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By decades. Values of zero or less have no place and are left out.
    Log,
    /// By decades, with a place for zero below the least of them: losses.
    LogAndZero,
    /// Shares by the logarithm of what is left to one: 90%, 99%, 99.9% are evenly apart. A share of one has no place.
    Nines,
}

/// What values are, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Something with SI prefixes: `pps`, `bit/s`.
    Si(&'static str),
    /// Something counted in full: `cycles`.
    Plain(&'static str),
    /// Nanoseconds, written in whatever unit of time fits.
    Nanoseconds,
    /// Seconds.
    Seconds,
    /// Shares from 0 to 1, written in percent.
    Share,
}

/// One axis of a plot.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What is drawn along it.
    pub label: String,
    /// How it is divided.
    pub scale: Scale,
    /// What its values are.
    pub unit: Unit,
}

/// An axis fitted to values: from `low` to `high`, in the scale's own measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitted {
    scale: Scale,
    unit: Unit,
    low: f64,
    high: f64,
}

/// A tick: its place from 0 to 1 and its text.
pub(super) struct Tick {
    pub(super) place: f64,
    pub(super) text: String,
}

/// The share of a [`Scale::LogAndZero`] axis that zero has for itself.
const ZERO_ROOM: f64 = 0.08;

impl Unit {
    /// A value in full, with its unit.
    pub fn text(self, value: f64) -> String {
        match self {
            Unit::Si(unit) => quantity::si(value, unit),
            Unit::Plain(unit) => quantity::of_unit(value, unit),
            Unit::Nanoseconds => quantity::time(value),
            Unit::Seconds => format!("{} s", (value * 100.0).round() / 100.0),
            Unit::Share => quantity::share(value),
        }
    }

    /// A value as short as a tick needs it: the axis' label has the unit.
    fn tick(self, value: f64) -> String {
        let trimmed = |text: String| {
            let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
            let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
            (number.to_owned(), unit.to_owned())
        };
        match self {
            Unit::Si(_) | Unit::Plain(_) => {
                let (number, prefix) = trimmed(quantity::si(value, ""));
                format!("{number}{prefix}")
            }
            Unit::Nanoseconds if value == 0.0 => "0".to_owned(),
            Unit::Nanoseconds => {
                let (number, unit) = trimmed(quantity::time(value));
                format!("{number} {unit}")
            }
            Unit::Seconds => format!("{}", (value * 1000.0).round() / 1000.0),
            Unit::Share => {
                let percent = format!("{:.7}", value * 100.0);
                format!("{}%", percent.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

impl Axis {
    /// An axis.
    pub fn new(label: impl Into<String>, scale: Scale, unit: Unit) -> Axis {
        Axis { label: label.into(), scale, unit }
    }

    /// Fits the axis to `values`. `rounded` makes it end on a tick, which suits the axis that is read off.
    pub(super) fn fit(&self, values: impl Iterator<Item = f64>, rounded: bool) -> Fitted {
        let zero_counts = self.scale == Scale::LogAndZero;
        let placed = |value: &f64| value.is_finite() && (zero_counts || measure(self.scale, *value).is_some());
        let (least, most) = values.filter(placed).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            let positive = value > 0.0 || matches!(self.scale, Scale::Linear | Scale::Nines);
            (if positive { low.min(value) } else { low }, high.max(value))
        });
        let (low, high) = match self.scale {
            Scale::Linear if most > 0.0 => {
                let step = step_of(most);
                (0.0, if rounded { (most / step - 1e-9).ceil() * step } else { most })
            }
            Scale::Linear => (0.0, 1.0),
            Scale::Nines => (0.0, measure(self.scale, most).filter(|high| *high > 0.0).unwrap_or(1.0)),
            Scale::Log | Scale::LogAndZero if least > most || most <= 0.0 => (0.0, 1.0),
            Scale::Log if !rounded => (least.log10(), most.log10().max(least.log10() + 0.1)),
            Scale::Log => {
                let (low, high) = (fine(least.log10(), f64::floor), fine(most.log10(), f64::ceil));
                if low < high { (low, high) } else { (low, fine(high + 0.01, f64::ceil)) }
            }
            Scale::LogAndZero => {
                let (low, high) = ((least.log10() + 1e-9).floor(), (most.log10() - 1e-9).ceil());
                (low, high.max(low + 1.0))
            }
        };
        Fitted { scale: self.scale, unit: self.unit, low, high }
    }
}

/// A value in the scale's own measure; `None` if it has none.
fn measure(scale: Scale, value: f64) -> Option<f64> {
    match scale {
        Scale::Linear => Some(value),
        Scale::Log | Scale::LogAndZero => (value > 0.0).then(|| value.log10()),
        Scale::Nines => (value < 1.0).then(|| -(1.0 - value).log10()),
    }
}

/// The distance of some five ticks up to `most`: one, two or five times a power of ten.
fn step_of(most: f64) -> f64 {
    let rough = most / 5.0;
    let decade = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|step| rough <= *step * 1.0001).unwrap_or(10.0 * decade)
}

/// Rounds a logarithm to one, two or five times a power of ten, up or down as `round` does.
fn fine(log: f64, round: fn(f64) -> f64) -> f64 {
    let decade = log.floor();
    let stops = [0.0, 2_f64.log10(), 5_f64.log10(), 1.0];
    let rest = log - decade;
    let stop = if round(0.5) > 0.5 {
        stops.into_iter().find(|stop| *stop >= rest - 1e-9)
    } else {
        stops.into_iter().rev().find(|stop| *stop <= rest + 1e-9)
    };
    decade + stop.expect("the stops cover a decade")
}

impl Fitted {
    /// Where a value stands: 0 at the axis' start, 1 at its end. `None` if it has no place on this scale.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        if self.scale == Scale::LogAndZero {
            let within = |log: f64| (log - self.low) / (self.high - self.low);
            let place = |value: f64| ZERO_ROOM + (1.0 - ZERO_ROOM) * within(value.log10());
            return Some(if value > 0.0 { place(value).max(0.0) } else { 0.0 });
        }
        measure(self.scale, value).map(|measure| ((measure - self.low) / (self.high - self.low)).clamp(0.0, 1.0))
    }

    /// Where the ticks stand, and what they say.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let values: Vec<f64> = match self.scale {
            Scale::Linear => {
                let step = step_of(self.high);
                (0..).map(|i| f64::from(i) * step).take_while(|value| *value <= self.high * 1.0001).collect()
            }
            Scale::Nines => {
                [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999].into_iter().filter(|s| self.has(*s)).collect()
            }
            Scale::Log => {
                let stops: &[f64] = if self.high - self.low <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                self.decades()
                    .flat_map(|decade| stops.iter().map(move |s| s * decade))
                    .filter(|v| self.has(*v))
                    .collect()
            }
            Scale::LogAndZero => std::iter::once(0.0).chain(self.decades().filter(|v| self.has(*v))).collect(),
        };
        let tick = |value: f64| Some(Tick { place: self.place(value)?, text: self.unit.tick(value) });
        values.into_iter().filter_map(tick).collect()
    }

    /// Powers of ten around the axis.
    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.low.floor() as i32..=self.high.ceil() as i32).map(|power| 10_f64.powi(power))
    }

    /// Whether a value lies within the axis.
    fn has(&self, value: f64) -> bool {
        measure(self.scale, value).is_some_and(|m| m >= self.low - 1e-9 && m <= self.high + 1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(scale: Scale, unit: Unit, values: &[f64]) -> Vec<String> {
        let fitted = Axis::new("", scale, unit).fit(values.iter().copied(), true);
        fitted.ticks().into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn linear_axes_begin_at_zero_and_end_on_a_tick() {
        let values = [300_000.0, 1_080_000.0];
        assert_eq!(ticks(Scale::Linear, Unit::Si("pps"), &values), ["0", "500k", "1M", "1.5M"]);
        assert_eq!(
            ticks(Scale::Linear, Unit::Nanoseconds, &[42_000.0]),
            ["0", "10 µs", "20 µs", "30 µs", "40 µs", "50 µs"]
        );
    }

    #[test]
    fn wide_logarithmic_axes_have_decades_and_narrow_ones_more() {
        assert_eq!(ticks(Scale::Log, Unit::Nanoseconds, &[900.0, 2e6]), ["1 µs", "10 µs", "100 µs", "1 ms"]);
        assert_eq!(ticks(Scale::Log, Unit::Nanoseconds, &[3e3, 9e3]), ["2 µs", "5 µs", "10 µs"]);
    }

    #[test]
    fn losses_have_a_place_for_none() {
        let axis = Axis::new("", Scale::LogAndZero, Unit::Share).fit([0.0, 0.0002, 0.3].into_iter(), true);
        let texts: Vec<_> = axis.ticks().into_iter().map(|tick| tick.text).collect();
        assert_eq!(texts, ["0%", "0.01%", "0.1%", "1%", "10%", "100%"]);
        assert_eq!(axis.place(0.0), Some(0.0));
        assert!((axis.place(0.0001).unwrap() - ZERO_ROOM).abs() < 1e-9);
        assert!((axis.place(1.0).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nines_are_evenly_apart_and_one_has_no_place() {
        let axis = Axis::new("", Scale::Nines, Unit::Share).fit([0.0, 0.99999].into_iter(), false);
        assert!((axis.place(0.9).unwrap() - 0.2).abs() < 1e-9);
        assert!((axis.place(0.999).unwrap() - 0.6).abs() < 1e-9);
        assert_eq!(axis.place(1.0), None);
        let texts: Vec<_> = axis.ticks().into_iter().map(|tick| tick.text).collect();
        assert_eq!(texts, ["0%", "50%", "90%", "99%", "99.9%", "99.99%", "99.999%"]);
    }

    #[test]
    fn an_axis_without_values_still_stands() {
        for scale in [Scale::Linear, Scale::Log, Scale::LogAndZero, Scale::Nines] {
            let fitted = Axis::new("", scale, Unit::Share).fit(std::iter::empty(), true);
            assert!(!fitted.ticks().is_empty(), "{scale:?}");
        }
    }
}
