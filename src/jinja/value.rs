//! Values of templates, with Python's meaning of truth, equality, order and containment.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::budget::Budget;
use super::error::{Result, TemplateError, TemplateErrorKind, fail};

/// Maximum nesting of lists and dicts. Values cannot be made deeper, so functions that walk them need no check.
const MAX_DEPTH: u32 = 64;

/// A value. Lists and dicts never change after they are made (transformers' sandbox forbids it), and namespaces are
/// numbers of the interpreter's. So no value can contain itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// An undefined value, with the error of its use.
    Undefined(Arc<str>),
    /// Python's `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number. Python's have no bounds; an operation that leaves 64 bits is an error.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// Text.
    Text(Arc<str>),
    /// A list, or something that is iterated like one.
    List(Arc<ValueList>),
    /// A dict, in order of insertion.
    Dict(Arc<Dict>),
    /// A namespace, by its number.
    Namespace(usize),
    /// The `loop` of a loop, by its number.
    Loop(usize),
    /// A macro, by its number.
    Macro(usize),
    /// A function of the environment.
    Function(Function),
    /// A method of a value.
    Method(Arc<(Value, Arc<str>)>),
}

/// The functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `range`.
    Range,
    /// `dict`.
    Dict,
    /// `namespace`.
    Namespace,
    /// `raise_exception`.
    RaiseException,
    /// `strftime_now`.
    StrftimeNow,
}

/// What Python has for a list of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// A list.
    List,
    /// A tuple.
    Tuple,
    /// A range.
    Range,
    /// `dict.keys()`, `dict.values()`, `dict.items()`.
    View(&'static str),
    /// The result of filters such as `map` and `select`: read once, without a length.
    Generator,
}

/// A sequence of values.
#[derive(Debug)]
pub struct ValueList {
    pub(super) kind: ListKind,
    pub(super) items: Vec<Value>,
    depth: u32,
    /// Whether a generator has been read.
    read: AtomicBool,
}

/// Pairs of keys and values.
#[derive(Debug)]
pub struct Dict {
    pub(super) pairs: Vec<(Value, Value)>,
    depth: u32,
}

impl Value {
    /// Text.
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    /// A dict with keys of text, in this order.
    ///
    /// # Errors
    /// It is nested too deeply.
    pub fn dict<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> std::result::Result<Self, TemplateError> {
        Self::from_pairs(pairs.into_iter().map(|(k, v)| (Self::text(k), v)).collect())
    }

    /// A list.
    ///
    /// # Errors
    /// It is nested too deeply.
    pub fn list(items: Vec<Value>) -> std::result::Result<Self, TemplateError> {
        Self::sequence(ListKind::List, items)
    }

    /// The bytes of all texts in it.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(list) => list.items.iter().map(Value::text_bytes).sum(),
            Self::Dict(dict) => dict.pairs.iter().map(|(k, v)| k.text_bytes() + v.text_bytes()).sum(),
            _ => 0,
        }
    }

    /// The same with every text in it changed.
    ///
    /// # Errors
    /// It is nested too deeply, or two keys of a dict become one.
    pub fn map_texts<'t>(&'t self, change: &impl Fn(&'t str) -> Cow<'t, str>) -> Result<Self> {
        let of = |value: &'t Value| value.map_texts(change);
        Ok(match self {
            Self::Text(text) => match change(text) {
                Cow::Borrowed(_) => self.clone(),
                Cow::Owned(changed) => Self::text(&changed),
            },
            Self::List(list) => Self::sequence(list.kind, list.items.iter().map(of).collect::<Result<_>>()?)?,
            Self::Dict(dict) => {
                let pairs = dict.pairs.iter().map(|(key, value)| Ok((of(key)?, of(value)?)));
                Self::from_pairs(pairs.collect::<Result<_>>()?)?
            }
            _ => self.clone(),
        })
    }

    pub(super) fn sequence(kind: ListKind, items: Vec<Value>) -> Result<Self> {
        let depth = items.iter().map(Value::depth).max().unwrap_or(0) + 1;
        check_depth(depth)?;
        Ok(Self::List(Arc::new(ValueList { kind, items, depth, read: AtomicBool::new(false) })))
    }

    /// A dict of pairs whose keys differ.
    pub(super) fn from_pairs(pairs: Vec<(Value, Value)>) -> Result<Self> {
        let depth = pairs.iter().map(|(k, v)| k.depth().max(v.depth())).max().unwrap_or(0) + 1;
        check_depth(depth)?;
        Ok(Self::Dict(Arc::new(Dict { pairs, depth })))
    }

    fn depth(&self) -> u32 {
        match self {
            Self::List(list) => list.depth,
            Self::Dict(dict) => dict.depth,
            Self::Method(method) => method.0.depth() + 1,
            _ => 0,
        }
    }

    /// The error of using something undefined.
    pub(super) fn undefined_error<T>(message: &str) -> Result<T> {
        Err(TemplateError::new(TemplateErrorKind::Runtime, message))
    }

    /// Python's `bool(..)`.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(x) => *x != 0.,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => list.kind == ListKind::Generator || !list.items.is_empty(),
            Self::Dict(dict) => !dict.pairs.is_empty(),
            _ => true,
        }
    }

    /// A number as Python's arithmetic takes it; truth values are 0 and 1.
    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Bool(b) => Some(Number::Int((*b).into())),
            Self::Int(n) => Some(Number::Int(*n)),
            Self::Float(x) => Some(Number::Float(*x)),
            _ => None,
        }
    }

    pub(super) fn as_text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Python's `len(..)`.
    pub(super) fn length(&self, budget: &mut Budget) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Text(text) => {
                budget.spend_bytes(text.len())?;
                text.chars().count()
            }
            Self::List(list) if list.kind != ListKind::Generator => list.items.len(),
            Self::Dict(dict) => dict.pairs.len(),
            other => return fail(format!("object of type '{}' has no len()", type_name(other))),
        })
    }

    /// The elements that a loop over the value sees.
    pub(super) fn elements(&self, budget: &mut Budget) -> Result<Vec<Value>> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::Text(text) => {
                budget.spend_items(text.len())?;
                Ok(text.chars().map(|c| Self::text(c.encode_utf8(&mut [0; 4]))).collect())
            }
            Self::List(list) => {
                if list.kind == ListKind::Generator && list.read.swap(true, Relaxed) {
                    return Ok(Vec::new());
                }
                budget.spend_items(list.items.len())?;
                Ok(list.items.clone())
            }
            Self::Dict(dict) => {
                budget.spend_items(dict.pairs.len())?;
                Ok(dict.pairs.iter().map(|(k, _)| k.clone()).collect())
            }
            other => fail(format!("'{}' object is not iterable", type_name(other))),
        }
    }

    /// Python's `a == b`.
    pub(super) fn equals(&self, other: &Self, budget: &mut Budget) -> Result<bool> {
        budget.spend(1)?;
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.compare(b) == Some(Ordering::Equal));
        }
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => {
                budget.spend_bytes(a.len().min(b.len()))?;
                a == b
            }
            (Self::List(a), Self::List(b)) => {
                let generators = a.kind == ListKind::Generator || matches!(a.kind, ListKind::View("values"));
                if Arc::ptr_eq(a, b) {
                    return Ok(true);
                }
                if generators || a.kind != b.kind || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => return a.equals(b, budget),
            (Self::Namespace(a), Self::Namespace(b)) => a == b,
            (Self::Loop(a), Self::Loop(b)) | (Self::Macro(a), Self::Macro(b)) => a == b,
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => false,
        })
    }

    /// Python's order of two values; none for numbers that have no order.
    pub(super) fn compare(&self, other: &Self, sign: &str, budget: &mut Budget) -> Result<Option<Ordering>> {
        budget.spend(1)?;
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.compare(b));
        }
        match (self, other) {
            (Self::Undefined(message), _) | (_, Self::Undefined(message)) => Self::undefined_error(message),
            (Self::Text(a), Self::Text(b)) => {
                budget.spend_bytes(a.len().min(b.len()))?;
                Ok(Some(a.cmp(b)))
            }
            (Self::List(a), Self::List(b))
                if a.kind == b.kind && matches!(a.kind, ListKind::List | ListKind::Tuple) =>
            {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return a.compare(b, sign, budget);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            _ => fail(format!(
                "'{sign}' not supported between instances of '{}' and '{}'",
                type_name(self),
                type_name(other)
            )),
        }
    }

    /// Python's `item in self`.
    pub(super) fn contains(&self, item: &Self, budget: &mut Budget) -> Result<bool> {
        match (self, item) {
            (Self::Text(text), Self::Text(part)) => {
                budget.spend_bytes(text.len().saturating_add(part.len()))?;
                Ok(text.contains(&**part))
            }
            (Self::Text(_), Self::Undefined(message)) => Self::undefined_error(message),
            (Self::Text(_), other) => {
                fail(format!("'in <string>' requires string as left operand, not {}", type_name(other)))
            }
            (Self::Dict(dict), key) => Ok(dict.get(key, budget)?.is_some()),
            _ => {
                for element in self.elements(budget).map_err(|_| not_a_container(self))? {
                    if element.equals(item, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Whether Python can use it as a key of a dict.
    pub(super) fn is_hashable(&self) -> bool {
        match self {
            Self::List(list) => list.kind != ListKind::List && list.items.iter().all(Value::is_hashable),
            Self::Dict(_) => false,
            _ => true,
        }
    }
}

fn not_a_container(value: &Value) -> TemplateError {
    TemplateError::new(TemplateErrorKind::Runtime, format!("argument of type '{}' is not iterable", type_name(value)))
}

/// Python's name of a value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Undefined(_) => "Undefined",
        Value::None => "NoneType",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float",
        Value::Text(_) => "str",
        Value::List(list) => match list.kind {
            ListKind::List => "list",
            ListKind::Tuple => "tuple",
            ListKind::Range => "range",
            ListKind::View("keys") => "dict_keys",
            ListKind::View("values") => "dict_values",
            ListKind::View(_) => "dict_items",
            ListKind::Generator => "generator",
        },
        Value::Dict(_) => "dict",
        Value::Namespace(_) => "Namespace",
        Value::Loop(_) => "LoopContext",
        Value::Macro(_) => "Macro",
        Value::Function(_) => "function",
        Value::Method(_) => "method",
    }
}

fn check_depth(depth: u32) -> Result<()> {
    if depth > MAX_DEPTH {
        let message = format!("a list or dict is nested more than {MAX_DEPTH} deep");
        return Err(TemplateError::new(TemplateErrorKind::Limit, message));
    }
    Ok(())
}

impl Dict {
    /// The value of a key. Keys are compared one by one; messages have a few.
    pub(super) fn get(&self, key: &Value, budget: &mut Budget) -> Result<Option<&Value>> {
        Ok(self.find(key, budget)?.map(|at| &self.pairs[at].1))
    }

    pub(super) fn find(&self, key: &Value, budget: &mut Budget) -> Result<Option<usize>> {
        find_key(&self.pairs, key, budget)
    }

    fn equals(&self, other: &Self, budget: &mut Budget) -> Result<bool> {
        if self.pairs.len() != other.pairs.len() {
            return Ok(false);
        }
        for (key, value) in &self.pairs {
            match other.get(key, budget)? {
                Some(theirs) if theirs.equals(value, budget)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn find_key(pairs: &[(Value, Value)], key: &Value, budget: &mut Budget) -> Result<Option<usize>> {
    budget.spend_items(pairs.len() / 8)?;
    if let Value::Text(text) = key {
        budget.spend_bytes(text.len())?;
        return Ok(pairs.iter().position(|(k, _)| matches!(k, Value::Text(k) if k == text)));
    }
    for (at, (k, _)) in pairs.iter().enumerate() {
        if k.equals(key, budget)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Pairs with the last of equal keys' values in the first one's place, as Python's dicts are built.
#[derive(Default)]
pub(super) struct DictBuilder {
    pairs: Vec<(Value, Value)>,
}

impl DictBuilder {
    pub(super) fn insert(&mut self, key: Value, value: Value, budget: &mut Budget) -> Result<()> {
        if !key.is_hashable() {
            return fail(format!("unhashable type: '{}'", type_name(&key)));
        }
        match find_key(&self.pairs, &key, budget)? {
            Some(at) => self.pairs[at].1 = value,
            None => self.pairs.push((key, value)),
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Value> {
        Value::from_pairs(self.pairs)
    }
}

/// A number of Python's arithmetic.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(n) => n as f64,
            Self::Float(x) => x,
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl TryFrom<&serde_json::Value> for Value {
    type Error = TemplateError;

    /// JSON as Python's `json.loads` reads it: keys in the file's order.
    fn try_from(json: &serde_json::Value) -> std::result::Result<Self, TemplateError> {
        use serde_json::Value as Json;
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Self::Int(n),
                (None, Some(x)) if !n.is_u64() => Self::Float(x),
                _ => return fail(format!("the number {n} is beyond 64 bits")),
            },
            Json::String(text) => Self::text(text),
            Json::Array(items) => Self::list(items.iter().map(Self::try_from).collect::<Result<_>>()?)?,
            Json::Object(map) => {
                let pairs = map.iter().map(|(key, value)| Ok((Self::text(key), Self::try_from(value)?)));
                Self::from_pairs(pairs.collect::<Result<_>>()?)?
            }
        })
    }
}
