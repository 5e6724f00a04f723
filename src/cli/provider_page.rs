//! `docs/providers.md`: all that is known of every provider, from the files that the gateway runs on.

use std::io::{self, Write};

use super::providers::{config_lines, facts};
use crate::provider::describe::carried;
use crate::provider::preset::{self, Confidence, Preset};

/// Writes the page.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(out: &mut dyn Write) -> io::Result<()> {
    let presets = preset::all();
    let of = |confidence| {
        presets
            .iter()
            .filter(|preset| preset.confidence == confidence)
            .count()
    };
    writeln!(
        out,
        "# Providers\n\nMade by `make docs` from `config/providers/*.toml`, the files that the gateway itself reads; a test keeps it true.\n\
         `hooklatch providers show NAME` prints the same for one.\n\n{} providers. The facts of {} are from their own pages, SDKs or specifications \
         (official),\nof {} from other public code (implementations), of {} from neither (unconfirmed: `hooklatch check` says so, try them with one\n\
         real event). How to add one: [add-a-provider.md](add-a-provider.md).\n",
        presets.len(),
        of(Confidence::Official),
        of(Confidence::Implementations),
        of(Confidence::Unconfirmed),
    )?;
    writeln!(
        out,
        "| provider | name | signature | confidence |\n|---|---|---|---|"
    )?;
    for preset in presets {
        let name = preset.name.as_str();
        writeln!(
            out,
            "| [{}](#{name}) | `{name}` | {} | {} |",
            cell(&preset.title),
            preset
                .schemes
                .first()
                .map_or_else(|| "none".to_owned(), |scheme| cell(&carried(scheme))),
            preset.confidence.name(),
        )?;
    }
    presets.iter().try_for_each(|preset| section(preset, out))
}

fn section(preset: &Preset, out: &mut dyn Write) -> io::Result<()> {
    let name = preset.name.as_str();
    writeln!(out, "\n<a id=\"{name}\"></a>\n\n## {} (`{name}`)\n", preset.title)?;
    if !preset.notes.is_empty() {
        writeln!(out, "{}\n", preset.notes)?;
    }
    writeln!(out, "| | |\n|---|---|")?;
    for (label, text) in facts(preset) {
        writeln!(out, "| {label} | {} |", cell(&text))?;
    }
    writeln!(out, "\n```toml\n{}\n```", config_lines(preset))
}

/// What would end a cell of a table, or be read as markup, is escaped.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' => {
                safe.push('\\');
                safe.push(character);
            }
            '\n' => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}
