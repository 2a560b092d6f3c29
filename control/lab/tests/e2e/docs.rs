//! Documentation that repeats the code says what the code says.

use std::{fs, path::Path};

use shunt_dataplane::verdict::DropReason;

const BEGIN: &str = "--test e2e docs` says if it is out of date -->\n";
const END: &str = "<!-- end of drops -->";

#[test]
fn the_table_of_drop_reasons_is_up_to_date() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = fs::read_to_string(file).expect("docs/operations.md is there");
    let (_, rest) = text.split_once(BEGIN).expect("the table's beginning is marked");
    let (table, _) = rest.split_once(END).expect("the table's end is marked");
    let row = |reason: DropReason| format!("| `{}` | {} |\n", reason.name(), reason.sentence());
    let expected: String = DropReason::ALL.into_iter().map(row).collect();
    let expected = format!("| reason | meaning |\n|---|---|\n{expected}");
    assert!(table == expected, "docs/operations.md has an old table of drop reasons; the new one is:\n{expected}");
}
