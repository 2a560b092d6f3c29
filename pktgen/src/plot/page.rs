//! The page around plots: head and style sheet, tiles with single figures, tables.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A page, complete in itself. `body` holds what follows the heading.
pub fn page(title: &str, subtitle: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    p { (subtitle) }
                }
                main { (body) }
            }
        }
    };
    page.into_string()
}

/// How a figure or a verdict is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As a fact.
    Plain,
    /// As wanted.
    Good,
    /// As not wanted.
    Bad,
}

/// A single figure that a reader should see first.
pub struct Tile {
    /// What it is.
    pub name: String,
    /// The figure with its unit.
    pub value: String,
    /// What must be known about it; may be empty.
    pub note: String,
    /// How it is to be taken.
    pub tone: Tone,
}

/// A row of tiles.
pub fn tiles(tiles: &[Tile]) -> Markup {
    html! {
        dl.tiles {
            @for tile in tiles {
                div.good[tile.tone == Tone::Good].bad[tile.tone == Tone::Bad] {
                    dt { (tile.name) }
                    dd { (tile.value) }
                    @if !tile.note.is_empty() { dd.note { (tile.note) } }
                }
            }
        }
    }
}

/// A cell of a table.
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Numbers stand right, words left.
    pub number: bool,
    /// How it is to be taken.
    pub tone: Tone,
}

impl Cell {
    /// A cell of words.
    pub fn words(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), number: false, tone: Tone::Plain }
    }

    /// A cell with a number.
    pub fn number(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), number: true, tone: Tone::Plain }
    }

    /// The cell, to be taken so.
    pub fn toned(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }
}

/// A table. A heading stands as the cells of its column do; without any text in `headings` there are none.
pub fn table(headings: &[&str], rows: &[Vec<Cell>]) -> Markup {
    let numbers = |column: usize| rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.number);
    html! {
        div.scroll {
            table {
                @if headings.iter().any(|heading| !heading.is_empty()) {
                    thead {
                        tr {
                            @for (column, heading) in headings.iter().enumerate() {
                                th.number[numbers(column)] scope="col" { (heading) }
                            }
                        }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            @for cell in row {
                                td.number[cell.number].good[cell.tone == Tone::Good].bad[cell.tone == Tone::Bad] {
                                    (cell.text)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Plots side by side where there is room.
pub fn plots(figures: &[Markup]) -> Markup {
    html! { div.plots { @for figure in figures { (figure) } } }
}

/// A part of the page under a heading.
pub fn section(heading: &str, body: &Markup) -> Markup {
    html! { section { h2 { (heading) } (body) } }
}
