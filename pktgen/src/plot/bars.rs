//! Bars: contenders side by side, case by case.

use maud::{Markup, html};

use super::{COLOURS, coordinate, scale::Axis};

/// One contender in one case.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The contender; its place among [`Bars::contenders`].
    pub contender: usize,
    /// Its figure. Absent where it can't do the case, or was not measured.
    pub value: Option<f64>,
    /// Said beside the bar: why there is no value, or what limits it. May be empty.
    pub note: String,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Group {
    /// What the case is.
    pub name: String,
    /// Its bars, from the top.
    pub bars: Vec<Bar>,
}

/// A chart of bars, with one colour for each contender.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What the bars measure. Bars begin at zero whatever its scale is.
    pub axis: Axis,
    /// Who is compared, no more than [`COLOURS`].
    pub contenders: Vec<String>,
    /// The cases, from the top.
    pub groups: Vec<Group>,
    /// What a reader must know to read it; may be empty.
    pub note: String,
}

const WIDTH: f64 = 640.0;
/// Where the bars begin and the longest may end; right of that its value is written.
const LEFT: f64 = 0.0;
const RIGHT: f64 = WIDTH - 104.0;
/// Heights of a case's name, of a bar, and of the gaps after both.
const NAME: f64 = 20.0;
const BAR: f64 = 18.0;
const BAR_GAP: f64 = 3.0;
const GROUP_GAP: f64 = 14.0;

impl Bars {
    /// The chart, as an HTML figure.
    pub fn figure(&self) -> Markup {
        debug_assert!(self.contenders.len() <= COLOURS);
        let values = self.groups.iter().flat_map(|group| group.bars.iter()).filter_map(|bar| bar.value);
        let longest = values.fold(0.0, f64::max);
        let length = |value: f64| if longest > 0.0 { value / longest * (RIGHT - LEFT) } else { 0.0 };
        let heights = self.groups.iter().map(|g| NAME + g.bars.len() as f64 * (BAR + BAR_GAP) + GROUP_GAP);
        let tops: Vec<f64> = heights
            .scan(0.0, |next, height| {
                let top = *next;
                *next += height;
                Some(top)
            })
            .collect();
        let last = self.groups.last().map_or(0.0, |g| NAME + g.bars.len() as f64 * (BAR + BAR_GAP));
        let height = tops.last().copied().unwrap_or_default() + last + 4.0;
        html! {
            figure.plot {
                figcaption {
                    h3 { (self.title) }
                    p.measure { (self.axis.label) }
                    ul.legend {
                        @for (i, contender) in self.contenders.iter().enumerate() { li class={ "s" (i) } { (contender) } }
                    }
                }
                div.scroll {
                    svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-label=(self.title) {
                        @for (group, top) in self.groups.iter().zip(&tops) {
                            text.group x=(LEFT) y=(coordinate(top + 14.0)) { (group.name) }
                            @for (i, bar) in group.bars.iter().enumerate() {
                                @let y = top + NAME + i as f64 * (BAR + BAR_GAP);
                                (self.bar(bar, y, length(bar.value.unwrap_or_default())))
                            }
                        }
                    }
                }
                @if !self.note.is_empty() { p.note { (self.note) } }
            }
        }
    }

    fn bar(&self, bar: &Bar, y: f64, length: f64) -> Markup {
        let name = self.contenders.get(bar.contender).map_or("", String::as_str);
        let text = match bar.value {
            Some(value) if bar.note.is_empty() => self.axis.unit.text(value),
            Some(value) => format!("{} ({})", self.axis.unit.text(value), bar.note),
            None => format!("{name}: {}", if bar.note.is_empty() { "not measured" } else { &bar.note }),
        };
        // A long text beside a long bar would leave the drawing: it then stands inside, at the bar's end.
        let inside = LEFT + length + 8.0 + text.chars().count() as f64 * 7.0 > WIDTH;
        let (class, x, anchor) =
            if inside { ("value inside", LEFT + length - 8.0, "end") } else { ("value", LEFT + length + 8.0, "start") };
        let class = if bar.value.is_none() { "value absent" } else { class };
        html! {
            g class={ "s" (bar.contender) } {
                title { (name) ": " (text) }
                @if bar.value.is_some() {
                    rect.bar x=(LEFT) y=(coordinate(y)) width=(coordinate(length.max(1.0))) height=(BAR) rx="2" {}
                }
                text class=(class) x=(coordinate(x)) y=(coordinate(y + BAR / 2.0)) dy="0.35em" text-anchor=(anchor) {
                    (text)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Scale, Unit},
        *,
    };

    #[test]
    fn bars_are_as_long_as_their_values_and_absences_say_why() {
        let bar = |contender, value, note: &str| Bar { contender, value, note: note.to_owned() };
        let chart = Bars {
            title: "Throughput".to_owned(),
            axis: Axis::new("packets per second", Scale::Linear, Unit::Si("pps")),
            contenders: vec!["Shunt".to_owned(), "kernel".to_owned(), "OVS".to_owned()],
            groups: vec![Group {
                name: "64 bytes, VXLAN".to_owned(),
                bars: vec![bar(0, Some(800_000.0), ""), bar(1, Some(400_000.0), ""), bar(2, None, "no DNAT")],
            }],
            note: String::new(),
        };
        let svg = chart.figure().into_string();
        assert!(svg.contains("width=\"536\"") && svg.contains("width=\"268\""), "{svg}");
        assert!(svg.contains("800.0 kpps") && svg.contains("OVS: no DNAT"), "{svg}");
        assert_eq!(svg.matches("class=\"bar\"").count(), 2);
    }
}
