//! Lines over a continuous axis.

use maud::{Markup, html};

use super::{
    COLOURS, coordinate,
    scale::{Axis, Fitted},
};

/// One line of a plot.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Drawn broad and pale, for what another line may cover.
    pub broad: bool,
    /// Its points in rising order of the first coordinate. A second one that is not a number breaks the line.
    pub points: Vec<(f64, f64)>,
}

/// A vertical line that says where something lies.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Its place on the horizontal axis.
    pub at: f64,
    /// What lies there.
    pub label: String,
}

/// A plot of lines.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What it shows.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines, no more than [`COLOURS`].
    pub series: Vec<Series>,
    /// Marks across the plot.
    pub marks: Vec<Mark>,
    /// Whether each point is a measurement of its own and gets a dot; otherwise only the line is drawn.
    pub dots: bool,
    /// What a reader must know to read it; may be empty.
    pub note: String,
}

/// The drawing's size, in SVG units. It scales with the page.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 330.0;
/// The plot's edges within the drawing. Above it is room for what a reader points at.
const LEFT: f64 = 58.0;
const RIGHT: f64 = WIDTH - 10.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 46.0;

/// Points of one line beyond which it is thinned: more than a screen shows.
const POINTS: usize = 800;
/// Places that show their values when pointed at.
const READOUTS: usize = 120;

impl Lines {
    /// The plot, as an HTML figure.
    pub fn figure(&self) -> Markup {
        debug_assert!(self.series.len() <= COLOURS);
        let coordinates = |pick: fn(&(f64, f64)) -> f64| self.series.iter().flat_map(|s| s.points.iter()).map(pick);
        let x = self.x.fit(coordinates(|p| p.0).chain(self.marks.iter().map(|m| m.at)), false);
        let y = self.y.fit(coordinates(|p| p.1), true);
        html! {
            figure.plot {
                figcaption {
                    h3 { (self.title) }
                    p.measure { (self.y.label) }
                    @if self.series.len() > 1 {
                        ul.legend {
                            @for (i, series) in self.series.iter().enumerate() { li class={ "s" (i) } { (series.name) } }
                        }
                    }
                }
                div.scroll {
                    svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.title) {
                        (self.frame(&x, &y))
                        @for (i, series) in self.series.iter().enumerate() {
                            g class={ "s" (i) } {
                                path.line.broad[series.broad] d=(path(&series.points, &x, &y)) {}
                                @if self.dots {
                                    @for (x, y) in series.points.iter().filter_map(|p| place(*p, &x, &y)) {
                                        circle.dot cx=(coordinate(x)) cy=(coordinate(y)) r="4" {}
                                    }
                                }
                            }
                        }
                        (self.readouts(&x, &y))
                    }
                }
                @if !self.note.is_empty() { p.note { (self.note) } }
            }
        }
    }

    /// Grid, ticks, labels and marks.
    fn frame(&self, x: &Fitted, y: &Fitted) -> Markup {
        html! {
            @for tick in y.ticks() {
                @let at = coordinate(BOTTOM - tick.place * (BOTTOM - TOP));
                line.grid x1=(LEFT) x2=(RIGHT) y1=(at) y2=(at) {}
                text.tick x=(LEFT - 8.0) y=(at) dy="0.35em" text-anchor="end" { (tick.text) }
            }
            @for tick in x.ticks() {
                @let at = coordinate(LEFT + tick.place * (RIGHT - LEFT));
                @let anchor = if tick.place > 0.97 { "end" } else { "middle" };
                line.grid x1=(at) x2=(at) y1=(TOP) y2=(BOTTOM) {}
                text.tick x=(at) y=(BOTTOM + 18.0) text-anchor=(anchor) { (tick.text) }
            }
            line.axis x1=(LEFT) x2=(RIGHT) y1=(BOTTOM) y2=(BOTTOM) {}
            text.label x=((LEFT + RIGHT) / 2.0) y=(HEIGHT - 6.0) text-anchor="middle" { (self.x.label) }
            @for (i, mark) in self.marks.iter().enumerate() {
                @if let Some(place) = x.place(mark.at) {
                    @let at = LEFT + place * (RIGHT - LEFT);
                    @let (anchor, text) = if place > 0.6 { ("end", at - 6.0) } else { ("start", at + 6.0) };
                    line.mark x1=(coordinate(at)) x2=(coordinate(at)) y1=(TOP) y2=(BOTTOM) {}
                    text.mark x=(coordinate(text)) y=(TOP + 14.0 + i as f64 * 18.0) text-anchor=(anchor) { (mark.label) }
                }
            }
        }
    }

    /// For each place a band that, pointed at, shows the values there.
    fn readouts(&self, x: &Fitted, y: &Fitted) -> Markup {
        let mut stops: Vec<f64> = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
        stops.sort_by(f64::total_cmp);
        stops.dedup();
        let stride = stops.len().div_ceil(READOUTS).max(1);
        let stops: Vec<(f64, f64)> = stops.into_iter().step_by(stride).filter_map(|v| Some((v, x.place(v)?))).collect();
        let edge = |a: f64, b: f64| LEFT + (a + b) / 2.0 * (RIGHT - LEFT);
        html! {
            @for (i, &(value, at)) in stops.iter().enumerate() {
                @let left = if i == 0 { LEFT } else { edge(stops[i - 1].1, at) };
                @let right = stops.get(i + 1).map_or(RIGHT, |next| edge(at, next.1));
                @let centre = coordinate(edge(at, at));
                g.readout {
                    rect x=(coordinate(left)) y=(TOP) width=(coordinate(right - left)) height=(BOTTOM - TOP) {}
                    g.shown {
                        line x1=(centre) x2=(centre) y1=(TOP) y2=(BOTTOM) {}
                        text x=(LEFT) y="15" {
                            (self.x.unit.text(value))
                            @for (i, reading) in self.readings(value) {
                                tspan dx="14" class={ "s" (i) } { "■ " } tspan { (reading) }
                            }
                        }
                        @for (i, point) in self.points_at(value) {
                            @if let Some((cx, cy)) = place(point, x, y) {
                                circle class={ "s" (i) } cx=(coordinate(cx)) cy=(coordinate(cy)) r="4" {}
                            }
                        }
                    }
                }
            }
        }
    }

    /// What stands at a place: number of the series, and its value in words.
    fn readings(&self, at: f64) -> impl Iterator<Item = (usize, String)> {
        self.points_at(at).filter(|(_, point)| point.1.is_finite()).map(|(i, point)| (i, self.y.unit.text(point.1)))
    }

    fn points_at(&self, at: f64) -> impl Iterator<Item = (usize, (f64, f64))> {
        let found = move |(i, series): (usize, &Series)| {
            let first = series.points.partition_point(|p| p.0 < at);
            series.points.get(first).filter(|p| p.0 == at).map(|p| (i, *p))
        };
        self.series.iter().enumerate().filter_map(found)
    }
}

/// Where a point stands in the drawing.
fn place(point: (f64, f64), x: &Fitted, y: &Fitted) -> Option<(f64, f64)> {
    let (x, y) = (x.place(point.0)?, y.place(point.1).filter(|y| y.is_finite())?);
    Some((LEFT + x * (RIGHT - LEFT), BOTTOM - y * (BOTTOM - TOP)))
}

/// The path of a line.
fn path(points: &[(f64, f64)], x: &Fitted, y: &Fitted) -> String {
    let mut path = String::new();
    let mut command = 'M';
    for point in thinned(points) {
        match place(point, x, y) {
            Some((x, y)) => {
                path += &format!("{command}{} {}", coordinate(x), coordinate(y));
                command = 'L';
            }
            None => command = 'M',
        }
    }
    path
}

/// At most [`POINTS`] points: of each stretch its least and its greatest, so that no spike and no gap is hidden.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(POINTS / 2);
    let extremes = |stretch: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let least = *stretch.iter().min_by(by_value).expect("chunks are not empty");
        let greatest = *stretch.iter().max_by(by_value).expect("chunks are not empty");
        if least.0 <= greatest.0 { [least, greatest] } else { [greatest, least] }
    };
    points.chunks(stretch).flat_map(extremes).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Scale, Unit},
        *,
    };

    fn plot(points: Vec<(f64, f64)>) -> String {
        let x = Axis::new("seconds", Scale::Linear, Unit::Seconds);
        let y = Axis::new("packets per second", Scale::Linear, Unit::Si("pps"));
        let series = vec![Series { name: "sent <all>".to_owned(), broad: false, points }];
        let lines = Lines {
            title: "Rate & loss".to_owned(),
            x,
            y,
            series,
            marks: Vec::new(),
            dots: false,
            note: String::new(),
        };
        lines.figure().into_string()
    }

    #[test]
    fn points_land_where_the_axes_say() {
        let svg = plot(vec![(0.0, 0.0), (5.0, 500.0), (10.0, 1000.0)]);
        assert!(svg.contains("M58 284L344 155L630 26"), "{svg}");
    }

    #[test]
    fn what_is_no_number_breaks_the_line() {
        let svg = plot(vec![(0.0, 0.0), (5.0, f64::NAN), (10.0, 1000.0)]);
        assert!(svg.contains("M58 284M630 26"), "{svg}");
    }

    #[test]
    fn names_are_escaped() {
        let svg = plot(vec![(0.0, 1.0)]);
        assert!(svg.contains("Rate &amp; loss") && !svg.contains("<all>"), "{svg}");
    }

    #[test]
    fn thinning_keeps_spikes_and_gaps() {
        let mut points: Vec<_> = (0..100_000).map(|i| (f64::from(i), 10.0)).collect();
        points[77_777].1 = 99.0;
        points[33_333].1 = 0.0;
        let kept = thinned(&points);
        assert!(kept.len() <= POINTS);
        assert!(kept.contains(&(77_777.0, 99.0)) && kept.contains(&(33_333.0, 0.0)));
        assert!(kept.is_sorted_by_key(|p| p.0));
    }
}
