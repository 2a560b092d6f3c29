//! Values that a header field takes from flow to flow.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// The values of an address.
pub type AddressField = Field<Ipv4Addr>;

/// The values of a port, or of an ICMP echo's identifier.
pub type PortField = Field<u16>;

/// The values of one field: a range or a list, taken in order or at random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<T> {
    values: Values<T>,
    random: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Values<T> {
    /// First and last.
    Range(T, T),
    List(Vec<T>),
}

/// What a field can hold: something numbered.
pub trait Value: Copy + FromStr + fmt::Display {
    /// What a text that is none should have been.
    const NAME: &'static str;

    /// Its number.
    fn number(self) -> u32;
}

impl Value for Ipv4Addr {
    const NAME: &'static str = "an IPv4 address";

    fn number(self) -> u32 {
        self.into()
    }
}

impl Value for u16 {
    const NAME: &'static str = "a port (0 to 65535)";

    fn number(self) -> u32 {
        self.into()
    }
}

impl<T: Value> Field<T> {
    /// A field that never changes.
    pub fn single(value: T) -> Field<T> {
        Field { values: Values::Range(value, value), random: false }
    }

    /// A field that takes all values from `first` to `last` in order.
    ///
    /// # Panics
    /// If there are none.
    pub fn spanning(first: T, last: T) -> Field<T> {
        assert!(first.number() <= last.number(), "a range that ends before it begins");
        Field { values: Values::Range(first, last), random: false }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        match &self.values {
            Values::Range(first, last) => u64::from(last.number() - first.number()) + 1,
            Values::List(list) => list.len() as u64,
        }
    }

    /// First value, as a number, and how many follow one another, if they do and are taken in order.
    pub fn range(&self) -> Option<(u32, u64)> {
        match self.values {
            Values::Range(first, _) if !self.random => Some((first.number(), self.count())),
            _ => None,
        }
    }

    /// Whether a flow's value is drawn by chance.
    pub fn random(&self) -> bool {
        self.random
    }

    /// Value `index` of them, as a number.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn value(&self, index: u64) -> u32 {
        match &self.values {
            Values::Range(first, _) => first.number() + u32::try_from(index).expect("an index into a range"),
            Values::List(list) => list[index as usize].number(),
        }
    }

    fn read(text: &str) -> Result<Values<T>, String> {
        let value = |text: &str| {
            text.trim().parse::<T>().map_err(|_| format!("'{}' is not {}, nor first-last", text.trim(), T::NAME))
        };
        match text.split_once('-') {
            None => value(text).map(|v| Values::Range(v, v)),
            Some((first, last)) => {
                let (first, last) = (value(first)?, value(last)?);
                if last.number() < first.number() {
                    return Err(format!("'{text}' ends before it begins"));
                }
                Ok(Values::Range(first, last))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a value, \"first-last\", a list of values, or { range or list, pick = \"increment\" or \"random\" }"
)]
enum Written {
    Number(u16),
    Text(String),
    List(Vec<Item>),
    Range(PickedRange),
    Listed(PickedList),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickedRange {
    range: String,
    pick: Pick,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickedList {
    list: Vec<Item>,
    pick: Pick,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Number(u16),
    Text(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pick {
    Increment,
    Random,
}

impl Item {
    fn read<T: Value>(self) -> Result<T, String> {
        let text = match self {
            Item::Number(number) => number.to_string(),
            Item::Text(text) => text,
        };
        text.parse().map_err(|_| format!("'{text}' is not {}", T::NAME))
    }
}

fn list<T: Value>(items: Vec<Item>) -> Result<Values<T>, String> {
    if items.is_empty() {
        return Err("the list is empty".into());
    }
    items.into_iter().map(Item::read).collect::<Result<_, _>>().map(Values::List)
}

impl<'de, T: Value> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Field<T>, D::Error> {
        let (values, pick) = match Written::deserialize(from)? {
            Written::Number(number) => (Field::read(&number.to_string()), Pick::Increment),
            Written::Text(text) => (Field::read(&text), Pick::Increment),
            Written::List(items) => (list(items), Pick::Increment),
            Written::Range(picked) => (Field::read(&picked.range), picked.pick),
            Written::Listed(picked) => (list(picked.list), picked.pick),
        };
        let random = matches!(pick, Pick::Random);
        values.map(|values| Field { values, random }).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Document {
        address: AddressField,
        port: PortField,
    }

    fn read(address: &str, port: &str) -> Result<Document, String> {
        toml::from_str(&format!("address = {address}\nport = {port}")).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn ranges_and_lists_have_their_values_in_order() {
        let document = read("\"10.0.0.254-10.0.1.1\"", "[80, \"443\"]").unwrap();
        assert_eq!((document.address.count(), document.port.count()), (4, 2));
        assert_eq!(Ipv4Addr::from(document.address.value(3)), Ipv4Addr::new(10, 0, 1, 1));
        assert_eq!(document.port.value(1), 443);
        let document = read("\"10.0.0.1\"", "{ range = \"1-65535\", pick = \"random\" }").unwrap();
        assert_eq!((document.address.count(), document.port.count()), (1, 65535));
        assert!(document.port.random() && !document.address.random());
    }

    #[test]
    fn nonsense_is_refused() {
        for (address, port, part) in [
            ("\"10.0.0\"", "1", "not an IPv4 address"),
            ("\"10.0.0.2-10.0.0.1\"", "1", "ends before"),
            ("\"10.0.0.1\"", "\"70000\"", "not a port"),
            ("\"10.0.0.1\"", "[]", "empty"),
            ("\"10.0.0.1\"", "{ range = \"1-2\", pick = \"odd\" }", "a value"),
            ("\"10.0.0.1\"", "true", "a value"),
        ] {
            let error = read(address, port).err().expect("refused");
            assert!(error.contains(part), "{address} {port}: {error}");
        }
    }
}
