//! `config/schema.json` against the program: it has every key, no other, and takes the files that are shipped.

use std::collections::BTreeSet;

use hooklatch::config;
use serde_json::Value;

use super::env;

const REFERENCE: &str = include_str!("../../../config/reference.toml");

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../config/schema.json")).unwrap()
}

/// Follows `$ref`.
fn resolved<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Every key of a schema, as `route.verify.header`; `*` where the user chooses the names.
fn keys(root: &Value, schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    // The reference names secrets there; written in place they have the keys of [secrets].
    if schema["$ref"] == "#/$defs/secret_ref" {
        return;
    }
    let schema = resolved(root, schema);
    for way in schema["oneOf"].as_array().into_iter().flatten() {
        keys(root, way, path, found);
    }
    if schema["items"].is_object() {
        keys(root, &schema["items"], path, found);
    }
    let join = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let full = join(name).replace("upstreams", "upstream");
        keys(root, inner, &full, found);
        found.insert(full);
    }
    if schema["additionalProperties"].is_object() {
        keys(root, &schema["additionalProperties"], &join("*"), found);
    }
}

/// What of the standard the schema uses.
fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolved(root, schema);
    let wrong = |what: &str| Err(format!("{what}: {value}"));
    if let Some(ways) = schema["oneOf"].as_array() {
        let fitting = ways.iter().filter(|way| fits(root, way, value).is_ok()).count();
        return if fitting == 1 {
            Ok(())
        } else {
            wrong(&format!("{fitting} ways"))
        };
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return wrong("not one of the words");
    }
    let is = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    if !is {
        return wrong("another type");
    }
    for item in value.as_array().into_iter().flatten() {
        fits(root, &schema["items"], item)?;
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let known = &schema["properties"][name];
        match (known.is_null(), &schema["additionalProperties"]) {
            (false, _) => fits(root, known, inner)?,
            (true, Value::Bool(false)) => return wrong(name),
            (true, more) => fits(root, more, inner)?,
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return wrong(&format!("without {name}"));
        }
    }
    Ok(())
}

#[test]
fn the_schema_has_every_key_and_no_other() {
    let schema = schema();
    let mut of_schema = BTreeSet::new();
    keys(&schema, &schema, "", &mut of_schema);
    let of_program: BTreeSet<String> = config::keys_asked_for(REFERENCE, &env())
        .into_iter()
        .map(|key| key.replace("upstreams", "upstream"))
        .collect();
    let missing: Vec<_> = of_program.difference(&of_schema).collect();
    let unknown: Vec<_> = of_schema.difference(&of_program).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, unknown {unknown:?}"
    );
}

#[test]
fn what_is_shipped_fits_and_a_mistake_does_not() {
    let schema = schema();
    let read = |text: &str| serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
    for text in [REFERENCE, include_str!("../../../config/hooklatch.toml")] {
        fits(&schema, &schema, &read(text)).unwrap();
    }
    for (from, to) in [
        ("listen = ", "lisen = "),
        ("mode = \"queue\"", "mode = \"que\""),
        ("workers = 4", "workers = \"4\""),
        ("unit = \"s\"", "unit = \"h\""),
    ] {
        assert!(
            fits(&schema, &schema, &read(&REFERENCE.replacen(from, to, 1))).is_err(),
            "{to}"
        );
    }
}
