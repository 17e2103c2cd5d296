//! Jinja2's filters, with transformers' `tojson`. Filters of numbers and texts are in [`super::text_filters`].

use std::sync::Arc;

use super::arguments::{CallArgs, whole};
use super::error::{Result, TemplateError, TemplateErrorKind, excerpt, fail};
use super::print::{JsonStyle, json};
use super::runtime::Runtime;
use super::sort::sorted;
use super::value::{ListKind, Value, type_name};
use super::{operators, text_filters};

/// Filters of lists and dicts; the others are in [`text_filters::NAMES`].
const NAMES: [&str; 29] = [
    "attr",
    "batch",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "groupby",
    "items",
    "join",
    "last",
    "length",
    "list",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "tojson",
    "unique",
    "pprint",
];

/// Whether a filter with this name exists.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || text_filters::NAMES.contains(&name)
}

/// `value | name(args)`.
pub(super) fn apply(cx: &mut dyn Runtime, name: &str, value: Value, args: CallArgs) -> Result<Value> {
    // `map` applies filters by name, and so can apply itself: the depth must be counted.
    cx.budget().enter()?;
    let result = dispatch(cx, name, value, args)?;
    cx.budget().leave();
    Ok(result)
}

fn dispatch(cx: &mut dyn Runtime, name: &str, value: Value, args: CallArgs) -> Result<Value> {
    match name {
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let absent = match boolean {
                Some(b) if b.is_true() => !value.is_true(),
                _ => matches!(value, Value::Undefined(_)),
            };
            Ok(if absent { default.unwrap_or_else(|| Value::text("")) } else { value })
        }
        "length" | "count" => {
            args.exactly::<0>(name)?;
            Ok(Value::Int(value.length(cx.budget())? as i64))
        }
        "string" => {
            args.exactly::<0>(name)?;
            Ok(Value::text(&cx.display(&value)?))
        }
        // No text is escaped, so no text needs to be marked as safe.
        "safe" => {
            args.exactly::<0>(name)?;
            Ok(Value::text(&cx.display(&value)?))
        }
        "pprint" => fail("the filter `pprint` is not supported; `tojson` writes a value"),
        "tojson" => tojson(cx, &value, args),
        "first" => {
            args.exactly::<0>(name)?;
            let first = value.elements(cx.budget())?.into_iter().next();
            Ok(first.unwrap_or_else(|| Value::Undefined("No first item, sequence was empty.".into())))
        }
        "last" => {
            args.exactly::<0>(name)?;
            if matches!(&value, Value::List(list) if list.kind == ListKind::Generator) {
                return fail("'generator' object is not reversible");
            }
            let last = value.elements(cx.budget())?.pop();
            Ok(last.unwrap_or_else(|| Value::Undefined("No last item, sequence was empty.".into())))
        }
        "list" => {
            args.exactly::<0>(name)?;
            Value::list(value.elements(cx.budget())?)
        }
        "reverse" => reverse(cx, &value, args),
        "items" => items(&value, args),
        "attr" => attr(cx, &value, args),
        "join" => join(cx, &value, args),
        "map" => map(cx, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(cx, name, &value, args),
        "sort" => sort(cx, &value, args),
        "dictsort" => dictsort(cx, &value, args),
        "unique" => unique(cx, &value, args),
        "groupby" => groupby(cx, &value, args),
        "min" | "max" => extreme(cx, name, &value, args),
        "sum" => sum(cx, &value, args),
        "batch" => batch(cx, &value, args),
        "slice" => slice(cx, &value, args),
        _ => match text_filters::apply(cx, name, &value, args)? {
            Some(value) => Ok(value),
            None => {
                let name = excerpt(name);
                Err(TemplateError::new(TemplateErrorKind::Runtime, format!("No filter named '{name}'.")))
            }
        },
    }
}

fn generator(items: Vec<Value>) -> Result<Value> {
    Value::sequence(ListKind::Generator, items)
}

fn tojson(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [ensure_ascii, indent, separators, sort_keys] =
        args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Text(text)) => Some(text.to_string()),
        Some(number) => {
            let width = usize::try_from(whole(&number)?).unwrap_or(0);
            cx.budget().spend_bytes(width)?;
            Some(" ".repeat(width))
        }
    };
    let (mut item_separator, mut key_separator) =
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(separators) = separators.filter(|s| !matches!(s, Value::None)) {
        match separators.elements(cx.budget())?.as_slice() {
            [Value::Text(item), Value::Text(key)] => {
                item_separator = item.to_string();
                key_separator = key.to_string();
            }
            _ => return fail("separators must be a pair of texts"),
        }
    }
    let truth = |value: Option<Value>| value.is_some_and(|v| v.is_true());
    let style = JsonStyle {
        ensure_ascii: truth(ensure_ascii),
        indent,
        item_separator,
        key_separator,
        sort_keys: truth(sort_keys),
    };
    Ok(Value::text(&json(value, &style, cx.budget())?))
}

fn reverse(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    args.exactly::<0>("reverse")?;
    if let Value::Text(text) = value {
        cx.budget().spend_bytes(text.len())?;
        return Ok(Value::text(&text.chars().rev().collect::<String>()));
    }
    let mut items = value.elements(cx.budget())?;
    items.reverse();
    generator(items)
}

fn items(value: &Value, args: CallArgs) -> Result<Value> {
    args.exactly::<0>("items")?;
    match value {
        Value::Undefined(_) => generator(Vec::new()),
        Value::Dict(dict) => generator(super::methods::pairs(dict)?),
        _ => fail("Can only get item pairs from a mapping."),
    }
}

fn attr(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [name] = args.exactly("attr")?;
    match (value, &name) {
        // Only attributes: the elements of a dict are none.
        (Value::Dict(_), Value::Text(name)) if !super::methods::exists(value, name) => {
            super::lookup::missing(value, &Value::Text(Arc::clone(name)), cx.budget())
        }
        (_, Value::Text(name)) => cx.attribute(value, name),
        _ => fail("attribute name must be string"),
    }
}

fn join(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = cx.display(&separator.unwrap_or_else(|| Value::text("")))?;
    let mut out = String::new();
    for (at, item) in value.elements(cx.budget())?.into_iter().enumerate() {
        let item = match &attribute {
            Some(path) if !matches!(path, Value::None) => cx.path(&item, path)?,
            _ => item,
        };
        if at > 0 {
            cx.budget().spend_bytes(separator.len())?;
            out.push_str(&separator);
        }
        out.push_str(&cx.display(&item)?);
    }
    Ok(Value::text(&out))
}

fn map(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    if !value.is_true() {
        return generator(Vec::new());
    }
    let items = value.elements(cx.budget())?;
    let mut results = Vec::new();
    if args.positional.is_empty() && args.named.iter().any(|(n, _)| &**n == "attribute") {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let attribute = attribute.unwrap_or(Value::None);
        for item in items {
            let found = cx.path(&item, &attribute)?;
            let absent = matches!(found, Value::Undefined(_));
            results.push(default.clone().filter(|d| absent && !matches!(d, Value::None)).unwrap_or(found));
        }
        return generator(results);
    }
    let mut positional = args.positional.into_iter();
    let Some(Value::Text(filter)) = positional.next() else { return fail("map requires a filter argument") };
    let rest: Vec<Value> = positional.collect();
    for item in items {
        cx.budget().spend_items(rest.len() + args.named.len())?;
        let args = CallArgs { positional: rest.clone(), named: args.named.clone() };
        results.push(apply(cx, &filter, item, args)?);
    }
    generator(results)
}

fn select(cx: &mut dyn Runtime, name: &str, value: &Value, args: CallArgs) -> Result<Value> {
    if !value.is_true() {
        return generator(Vec::new());
    }
    let wanted = name.starts_with("select");
    let mut positional = args.positional.into_iter();
    let attribute = if name.ends_with("attr") {
        match positional.next() {
            Some(attribute) => Some(attribute),
            None => return fail("Missing parameter for attribute name"),
        }
    } else {
        None
    };
    let test = positional.next();
    let rest: Vec<Value> = positional.collect();
    let mut results = Vec::new();
    for item in value.elements(cx.budget())? {
        let subject = match &attribute {
            Some(path) => cx.path(&item, path)?,
            None => item.clone(),
        };
        let holds = match &test {
            None => subject.is_true(),
            Some(Value::Text(test)) => {
                cx.budget().spend_items(rest.len() + args.named.len())?;
                let args = CallArgs { positional: rest.clone(), named: args.named.clone() };
                cx.test(test, &subject, args)?
            }
            Some(_) => return fail("a test's name must be a string"),
        };
        if holds == wanted {
            results.push(item);
        }
    }
    generator(results)
}

/// The sort key of an item: the item or an attribute, with texts in lower case unless case matters.
fn key(cx: &mut dyn Runtime, item: &Value, attribute: Option<&Value>, case_sensitive: bool) -> Result<Value> {
    let key = match attribute {
        Some(path) if !matches!(path, Value::None) => cx.path(item, path)?,
        _ => item.clone(),
    };
    match &key {
        Value::Text(text) if !case_sensitive => {
            cx.budget().spend_bytes(text.len())?;
            Ok(Value::text(&text.to_lowercase()))
        }
        _ => Ok(key),
    }
}

fn is_set(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

fn keyed(cx: &mut dyn Runtime, value: &Value, attribute: Option<&Value>, case: bool) -> Result<Vec<(Value, Value)>> {
    let items = value.elements(cx.budget())?;
    items.into_iter().map(|item| Ok((key(cx, &item, attribute, case)?, item))).collect()
}

fn sort(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [reverse, case, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let mut items = value.elements(cx.budget())?;
    // Several attributes with commas between: the last one first, since sorting is stable.
    let paths: Vec<Option<Value>> = match &attribute {
        Some(Value::Text(text)) => text.rsplit(',').map(|path| Some(Value::text(path))).collect(),
        other => vec![other.clone()],
    };
    for path in paths {
        let mut pairs = Vec::with_capacity(items.len());
        for item in items {
            pairs.push((key(cx, &item, path.as_ref(), is_set(&case))?, item));
        }
        items = sorted(pairs, is_set(&reverse), cx.budget())?.into_iter().map(|(_, item)| item).collect();
    }
    Value::list(items)
}

fn dictsort(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let Value::Dict(dict) = value else { return fail(format!("'{}' object has no items", type_name(value))) };
    let by_value = match by.as_ref().and_then(Value::as_text).map(|t| &**t) {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return fail("You can only sort by either \"key\" or \"value\""),
    };
    cx.budget().spend_items(dict.pairs.len())?;
    let mut pairs = Vec::with_capacity(dict.pairs.len());
    for ((k, v), pair) in dict.pairs.iter().zip(super::methods::pairs(dict)?) {
        pairs.push((key(cx, if by_value { v } else { k }, None, is_set(&case))?, pair));
    }
    Value::list(sorted(pairs, is_set(&reverse), cx.budget())?.into_iter().map(|(_, pair)| pair).collect())
}

fn unique(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let mut seen: Vec<Value> = Vec::new();
    let mut results = Vec::new();
    for (key, item) in keyed(cx, value, attribute.as_ref(), is_set(&case))? {
        let mut known = false;
        for other in &seen {
            known = known || other.equals(&key, cx.budget())?;
        }
        if !known {
            seen.push(key);
            results.push(item);
        }
    }
    generator(results)
}

fn groupby(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [attribute, default, case] = args.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    if is_set(&default) {
        return fail("`groupby` with a default is not supported");
    }
    let pairs = keyed(cx, value, attribute.as_ref(), is_set(&case))?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sorted(pairs, false, cx.budget())? {
        match groups.last_mut() {
            Some((last, group)) if last.equals(&key, cx.budget())? => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut results = Vec::new();
    for (_, group) in groups {
        // The key as the first of the group spells it.
        let grouper = match (&attribute, group.first()) {
            (Some(path), Some(first)) => cx.path(first, path)?,
            _ => Value::None,
        };
        results.push(Value::sequence(ListKind::Tuple, vec![grouper, Value::list(group)?])?);
    }
    Value::list(results)
}

fn extreme(cx: &mut dyn Runtime, name: &str, value: &Value, args: CallArgs) -> Result<Value> {
    let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let mut best: Option<(Value, Value)> = None;
    for (key, item) in keyed(cx, value, attribute.as_ref(), is_set(&case))? {
        let better = match &best {
            None => true,
            Some((best, _)) if name == "min" => key.compare(best, "<", cx.budget())?.is_some_and(|o| o.is_lt()),
            Some((best, _)) => key.compare(best, ">", cx.budget())?.is_some_and(|o| o.is_gt()),
        };
        if better {
            best = Some((key, item));
        }
    }
    let nothing = || Value::Undefined("No aggregated item, sequence was empty.".into());
    Ok(best.map_or_else(nothing, |(_, item)| item))
}

fn sum(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let mut total = start.unwrap_or(Value::Int(0));
    if matches!(total, Value::Text(_)) {
        return fail("sum() can't sum strings [use ''.join(seq) instead]");
    }
    for item in value.elements(cx.budget())? {
        let item = match &attribute {
            Some(path) if !matches!(path, Value::None) => cx.path(&item, path)?,
            _ => item,
        };
        total = operators::arithmetic(super::ast::BinaryOp::Add, &total, &item, cx.budget())?;
    }
    Ok(total)
}

fn batch(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [count, fill] = args.bind("batch", ["linecount", "fill_with"])?;
    let count = usize::try_from(whole(&count.unwrap_or(Value::Int(0)))?).unwrap_or(0);
    if count == 0 {
        return fail("`batch` needs a number above 0");
    }
    let items = value.elements(cx.budget())?;
    let mut batches = Vec::new();
    for chunk in items.chunks(count) {
        let mut chunk = chunk.to_vec();
        if let Some(fill) = fill.as_ref().filter(|f| !matches!(f, Value::None)) {
            cx.budget().spend_items(count)?;
            chunk.resize(count, fill.clone());
        }
        batches.push(Value::list(chunk)?);
    }
    generator(batches)
}

fn slice(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [slices, fill] = args.bind("slice", ["slices", "fill_with"])?;
    let slices = usize::try_from(whole(&slices.unwrap_or(Value::Int(0)))?).unwrap_or(0);
    if slices == 0 {
        return fail("`slice` needs a number above 0");
    }
    cx.budget().spend_items(slices)?;
    let mut items = value.elements(cx.budget())?.into_iter();
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut results = Vec::new();
    for at in 0..slices {
        let mut part: Vec<Value> = items.by_ref().take(each + usize::from(at < extra)).collect();
        if at >= extra {
            part.extend(fill.clone().filter(|f| !matches!(f, Value::None)));
        }
        results.push(Value::list(part)?);
    }
    generator(results)
}
