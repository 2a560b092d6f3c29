//! The report as one self-contained HTML page: charts of what matters most, and all tables.

use maud::{Markup, html};
use shunt_pktgen::plot::{
    Axis, Bar, Bars, COLOURS, Group, Lines, Scale, Series,
    page::{Cell, page, plots, section, table},
};

use crate::{
    machine::Machine,
    markdown::{explained, title},
    rows::{Part, Row},
    table::{Cells, distinct, split, tables},
};

/// The page.
pub fn report(rows: &[Row], machine: &Machine) -> String {
    let facts: Vec<_> = machine.facts.iter().map(|(name, fact)| vec![Cell::words(name), Cell::words(fact)]).collect();
    let body = html! {
        @for part in Part::ALL {
            @let found = tables(rows, part);
            @if !found.is_empty() {
                (section(title(part), &html! {
                    @for paragraph in explained(part).split("\n\n") { p { (paragraph.replace('*', "")) } }
                    (plots(&charts(rows, part)))
                    @for found in found {
                        h3 { (found.family) }
                        @let headings: Vec<_> = found.headings.iter().map(String::as_str).collect();
                        @let lines: Vec<_> = found.lines.iter().map(|line| cells(&line.labels, &line.cells)).collect();
                        (table(&headings, &lines))
                    }
                }))
            }
        }
        (section("Where and how", &table(&["", ""], &facts)))
    };
    page("Shunt beside its peers", &format!("{}, {}", machine.fact("date"), machine.fact("command")), &body)
}

fn cells(labels: &[String], cells: &Cells) -> Vec<Cell> {
    let labels = labels.iter().map(Cell::words);
    match cells {
        Cells::Values(values) => labels.chain(values.iter().map(Cell::number)).collect(),
        Cells::Reason(reason) => labels.chain([Cell::words(format!("not run: {reason}"))]).collect(),
    }
}

fn charts(rows: &[Row], part: Part) -> Vec<Markup> {
    let bars = |chart: &str, metric: &str| bars(rows, part, chart, metric).map(|bars| bars.figure());
    let found = match part {
        Part::Engine => vec![growth(rows)],
        Part::Veth => vec![
            bars("Highest rate without loss", "no loss"),
            bars("99th percentile of latency at half of it", "p99 at 50%"),
        ],
        Part::Applications => vec![
            bars("Throughput of iperf3", "received"),
            bars("Requests answered by nginx", "requests"),
            bars("99th percentile of sockperf's round trip", "p99 of the round trip"),
        ],
        Part::Control => vec![bars("All services at once", "cold load"), bars("One change", "one change")],
        Part::Generators => vec![bars("Packets out of one veth", "sent")],
    };
    found.into_iter().flatten().collect()
}

/// Contenders side by side in one metric, in all cases that have it.
fn bars(rows: &[Row], part: Part, title: &str, metric: &str) -> Option<Bars> {
    let of: Vec<&Row> = rows.iter().filter(|row| row.part == part && row.metric == metric).collect();
    let unit = of.first()?.unit?;
    let mut contenders = distinct(of.iter().map(|row| row.contender.as_str()));
    contenders.truncate(COLOURS);
    let group = |case: &str| Group {
        name: case.to_owned(),
        bars: (0..contenders.len())
            .filter_map(|contender| {
                let row = of.iter().find(|row| row.case == case && row.contender == contenders[contender])?;
                Some(Bar { contender, value: row.value, note: String::new() })
            })
            .collect(),
    };
    Some(Bars {
        title: title.to_owned(),
        axis: Axis::new(metric, Scale::Linear, unit.shown()),
        groups: distinct(of.iter().map(|row| row.case.as_str())).into_iter().map(group).collect(),
        contenders: contenders.into_iter().map(str::to_owned).collect(),
        note: String::new(),
    })
}

/// How the paths' cost grows with flows.
fn growth(rows: &[Row]) -> Option<Markup> {
    let of: Vec<(&str, f64, &Row)> = rows
        .iter()
        .filter(|row| row.part == Part::Engine && row.metric == "cycles per packet")
        .filter_map(|row| {
            let (path, scale) = split(&row.case);
            let flows = scale.strip_suffix(" flows")?.replace(',', "").parse().ok()?;
            Some((path, flows, row))
        })
        .collect();
    let unit = of.first()?.2.unit?;
    let mut paths = distinct(of.iter().map(|(path, ..)| *path));
    paths.truncate(COLOURS);
    let series = |path: &str| Series {
        name: path.to_owned(),
        broad: false,
        points: of
            .iter()
            .filter(|(p, ..)| *p == path)
            .filter_map(|(_, flows, row)| Some((*flows, row.value?)))
            .collect(),
    };
    let lines = Lines {
        title: "Cost of a packet against flows".to_owned(),
        x: Axis::new("flows", Scale::Log, shunt_pktgen::plot::Unit::Si("")),
        y: Axis::new("cycles per packet", Scale::Linear, unit.shown()),
        series: paths.into_iter().map(series).collect(),
        marks: Vec::new(),
        dots: true,
        note: String::new(),
    };
    Some(lines.figure())
}
