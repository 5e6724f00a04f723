//! One table of the text: typed reading of its keys, and what is left over at the end is unknown.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::context::{At, Context, Span};
use super::units::{parse_duration, parse_size, show_duration, show_size};

/// How alike two words must be for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// A table being read.
pub(super) struct Section<'s> {
    pub(super) context: &'s Context<'s>,
    table: &'s DeTable<'s>,
    /// Where the table begins, for what is missing.
    pub(super) span: Span,
    /// How the table is called in messages: `[store]`, `[[route]]`.
    label: String,
    /// Its place among the tables: `route.upstream`.
    path: String,
    asked: RefCell<BTreeSet<&'static str>>,
    /// Keys that must be written and are not, each with what to do.
    missing: RefCell<Vec<(&'static str, String)>>,
}

/// A key's value, whatever its type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'s> {
    pub(super) value: &'s Spanned<DeValue<'s>>,
}

impl Item<'_> {
    pub(super) fn span(&self) -> Span {
        self.value.span()
    }
}

impl<'s> Section<'s> {
    /// The whole file.
    pub(super) fn root(context: &'s Context<'s>, table: &'s DeTable<'s>) -> Self {
        Self {
            context,
            table,
            span: 0..0,
            label: "the top level".to_owned(),
            path: String::new(),
            asked: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// The value of `key`, which becomes a known key.
    pub(super) fn item(&self, key: &'static str) -> Option<Item<'s>> {
        self.asked.borrow_mut().insert(key);
        self.context.ask(&self.path, key);
        self.table.get(key).map(|value| Item { value })
    }

    /// Where `key` itself stands, else the table.
    pub(super) fn key_span(&self, key: &str) -> Span {
        self.table
            .get_key_value(key)
            .map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    pub(super) fn has(&self, key: &'static str) -> bool {
        self.item(key).is_some()
    }

    /// Says, when the table is finished, that `key` must be written; unless it is there with a slip in its name.
    pub(super) fn missing(&self, key: &'static str, help: &str) {
        self.missing.borrow_mut().push((key, help.to_owned()));
    }

    pub(super) fn string(&self, key: &'static str) -> Option<At<&'s str>> {
        let item = self.item(key)?;
        match item.value.get_ref() {
            DeValue::String(text) => Some(At {
                value: text,
                span: item.span(),
            }),
            _ => self.mistyped(key, item, "a string in quotes"),
        }
    }

    pub(super) fn boolean(&self, key: &'static str) -> Option<At<bool>> {
        let item = self.item(key)?;
        match item.value.get_ref() {
            DeValue::Boolean(value) => Some(At {
                value: *value,
                span: item.span(),
            }),
            _ => self.mistyped(key, item, "true or false"),
        }
    }

    /// A whole number within `range`.
    pub(super) fn integer(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<At<u64>> {
        let item = self.item(key)?;
        let DeValue::Integer(written) = item.value.get_ref() else {
            return self.mistyped(key, item, "a whole number");
        };
        let value = u64::from_str_radix(written.as_str(), written.radix()).ok();
        let Some(value) = value.filter(|value| range.contains(value)) else {
            let text = format!(
                "\"{key}\" must be a whole number from {} to {}",
                range.start(),
                range.end()
            );
            self.context.wrong(&item.span(), text, None);
            return None;
        };
        Some(At {
            value,
            span: item.span(),
        })
    }

    /// A number, whole or not, within `range`.
    pub(super) fn number(&self, key: &'static str, range: std::ops::RangeInclusive<f64>) -> Option<At<f64>> {
        let item = self.item(key)?;
        let value = match item.value.get_ref() {
            DeValue::Integer(written) => u32::from_str_radix(written.as_str(), written.radix())
                .ok()
                .map(f64::from),
            DeValue::Float(written) => written.as_str().parse::<f64>().ok(),
            _ => return self.mistyped(key, item, "a number"),
        };
        let Some(value) = value.filter(|value| range.contains(value)) else {
            let text = format!(
                "\"{key}\" must be a number from {} to {}",
                range.start(),
                range.end()
            );
            self.context.wrong(&item.span(), text, None);
            return None;
        };
        Some(At {
            value,
            span: item.span(),
        })
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &self,
        key: &'static str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<At<Duration>> {
        let form = "a duration in quotes, such as \"250ms\", \"5m\", \"1h30m\" or \"7d\"";
        let item = self.item(key)?;
        let DeValue::String(text) = item.value.get_ref() else {
            return self.mistyped(key, item, form);
        };
        let Some(value) = parse_duration(text) else {
            let text = format!("\"{key}\" must be {form}");
            self.context.wrong(&item.span(), text, None);
            return None;
        };
        self.within(key, value, item.span(), &range, show_duration)
    }

    /// A size within `range`: text with a unit, or a whole number of bytes.
    pub(super) fn size(&self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<At<u64>> {
        let form = "a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a whole number of bytes";
        let item = self.item(key)?;
        let value = match item.value.get_ref() {
            DeValue::String(text) => parse_size(text),
            DeValue::Integer(written) => u64::from_str_radix(written.as_str(), written.radix()).ok(),
            _ => return self.mistyped(key, item, form),
        };
        let Some(value) = value else {
            let text = format!("\"{key}\" must be {form}");
            self.context.wrong(&item.span(), text, None);
            return None;
        };
        self.within(key, value, item.span(), &range, show_size)
    }

    /// The value, if it lies in `range`; else what `show` makes of the bounds is said.
    fn within<T: Copy + PartialOrd>(
        &self,
        key: &str,
        value: T,
        span: Span,
        range: &std::ops::RangeInclusive<T>,
        show: impl Fn(T) -> String,
    ) -> Option<At<T>> {
        if range.contains(&value) {
            return Some(At { value, span });
        }
        let text = format!(
            "\"{key}\" must be from {} to {}",
            show(*range.start()),
            show(*range.end())
        );
        self.context.wrong(&span, text, None);
        None
    }

    /// A list of strings.
    pub(super) fn strings(&self, key: &'static str) -> Option<At<Vec<At<&'s str>>>> {
        let item = self.item(key)?;
        let DeValue::Array(array) = item.value.get_ref() else {
            return self.mistyped(key, item, "a list of strings, such as [\"a\", \"b\"]");
        };
        let mut list = Vec::new();
        for entry in array.iter() {
            match entry.get_ref() {
                DeValue::String(text) => list.push(At {
                    value: &**text,
                    span: entry.span(),
                }),
                other => {
                    let text = format!(
                        "\"{key}\" takes strings in quotes, this is {}",
                        with_article(other.type_str())
                    );
                    self.context.wrong(&entry.span(), text, None);
                }
            }
        }
        Some(At {
            value: list,
            span: item.span(),
        })
    }

    /// A table, written `{ ... }` or under a header of its own. `form` shows how.
    pub(super) fn table(&self, key: &'static str, form: &str) -> Option<Section<'s>> {
        let item = self.item(key)?;
        match item.value.get_ref() {
            DeValue::Table(table) => Some(self.child(key, table, item.span(), false)),
            _ => self.mistyped(key, item, &format!("a table: {key} = {form}")),
        }
    }

    /// A list of tables, written `[[key]]` or `[{ ... }]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'s>> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let full = self.full(key);
        let DeValue::Array(array) = item.value.get_ref() else {
            let form = format!("a list of tables: write [[{full}]] with double brackets");
            return self.mistyped(key, item, &form).unwrap_or_default();
        };
        let mut sections = Vec::new();
        for entry in array.iter() {
            match entry.get_ref() {
                DeValue::Table(table) => sections.push(self.child(key, table, entry.span(), true)),
                other => {
                    let text = format!(
                        "\"{key}\" takes tables, this is {}",
                        with_article(other.type_str())
                    );
                    self.context.wrong(&entry.span(), text, None);
                }
            }
        }
        sections
    }

    /// Keys and values of a table whose keys the user chooses; none of them is unknown.
    pub(super) fn entries(&self) -> Vec<(At<&'s str>, Item<'s>)> {
        let mut list: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let name = At {
                    value: &**key.get_ref(),
                    span: key.span(),
                };
                (name, Item { value })
            })
            .collect();
        list.sort_by_key(|(name, _)| name.span.start);
        list
    }

    /// A value of this table read as a table of its own; for tables whose keys the user chooses.
    pub(super) fn entry_table(&self, name: &str, item: Item<'s>, generic: &str) -> Option<Section<'s>> {
        match item.value.get_ref() {
            DeValue::Table(table) => {
                let mut section = self.child(name, table, item.span(), false);
                section.path = self.full(generic);
                Some(section)
            }
            _ => None,
        }
    }

    /// Says which keys nobody asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        let mut slips = Vec::new();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if asked.contains(name) {
                continue;
            }
            let successor = RENAMED
                .iter()
                .find(|(path, old, ..)| *path == self.path && *old == name);
            let hint = match successor {
                Some((_, _, new, text)) => {
                    slips.push(*new);
                    Some((*text).to_owned())
                }
                None => suggest(name, asked.iter().copied()).map(|near| {
                    slips.push(near);
                    format!("did you mean \"{near}\"?")
                }),
            };
            let text = match hint {
                Some(hint) => format!("unknown key {name:?} in {}; {hint}", self.label),
                None => format!("unknown key {name:?} in {}", self.label),
            };
            let known: Vec<&str> = asked.iter().copied().collect();
            let help = format!("known here: {}", known.join(", "));
            self.context.wrong(&key.span(), text, Some(&help));
        }
        for (key, help) in self.missing.borrow().iter() {
            if !slips.contains(key) {
                let text = format!("{} lacks \"{key}\"", self.label);
                self.context.error(&self.span, text, Some(help));
            }
        }
    }

    fn child(&self, key: &str, table: &'s DeTable<'s>, span: Span, in_list: bool) -> Section<'s> {
        let path = self.full(key);
        let label = if in_list {
            format!("[[{path}]]")
        } else {
            format!("[{path}]")
        };
        // An inline table spans its braces; what is missing there is shown at the opening one.
        Section {
            context: self.context,
            table,
            span,
            label,
            path,
            asked: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn mistyped<T>(&self, key: &str, item: Item<'s>, form: &str) -> Option<T> {
        let text = format!(
            "\"{key}\" must be {form}; this is {}",
            with_article(item.value.get_ref().type_str())
        );
        self.context.wrong(&item.span(), text, None);
        None
    }
}

/// Names that other gateways use, or that belong elsewhere: table, name, our name in that table, what to write.
const RENAMED: [(&str, &str, &str, &str); 6] = [
    ("store", "dir", "path", "the folder is called \"path\" here"),
    (
        "route",
        "secret",
        "secrets",
        "write secrets = [\"name\"] and define the name in [secrets]",
    ),
    (
        "route",
        "scheme",
        "",
        "it belongs on the secret: [secrets] then name = { ..., scheme = \"...\" }",
    ),
    ("route", "url", "upstream", "write upstream = { url = \"...\" }"),
    ("admin", "secret", "token", "the key is called \"token\""),
    (
        "limits",
        "max_body",
        "body_bytes",
        "the key is called \"body_bytes\"",
    ),
];

/// The known word most like `word`, if any is like it at all.
pub(super) fn suggest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn with_article(type_name: &str) -> String {
    match type_name {
        "integer" | "array" => format!("an {type_name}"),
        _ => format!("a {type_name}"),
    }
}
