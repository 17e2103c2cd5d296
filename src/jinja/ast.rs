//! The syntax tree. Everything that a template can chain without brackets (operators, filters, `elif`) is a list and
//! not a tree, so that the parser's limit on nesting bounds the depth of the tree.

use std::sync::Arc;

use super::value::Value;

/// Statements in order.
pub(super) type Body = Vec<Statement>;

/// A statement and its line.
pub(super) struct Statement {
    pub line: u32,
    pub node: TemplateNode,
}

pub(super) enum TemplateNode {
    /// Text outside of tags.
    Text(Arc<str>),
    /// `{{ expression }}`.
    Output(Expr),
    /// `if` with its `elif` branches, then `else`.
    If {
        branches: Vec<(Expr, Body)>,
        otherwise: Body,
    },
    For(Box<For>),
    Set(Target, Expr),
    /// `{% set x %}..{% endset %}`, the captured text through filters.
    SetBlock {
        target: Target,
        filters: Vec<ExprStep>,
        body: Body,
    },
    With(Vec<(Target, Expr)>, Body),
    FilterBlock(Vec<ExprStep>, Body),
    Macro(Box<Macro>),
    /// `{% call(..) f(..) %}..{% endcall %}`; the macro is the caller.
    CallBlock {
        caller: Box<Macro>,
        call: Expr,
    },
    /// `{% generation %}`: a block with a scope of its own.
    Scoped(Body),
    Break,
    Continue,
}

pub(super) struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub body: Body,
    pub otherwise: Body,
    pub recursive: bool,
}

pub(super) struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Body,
    /// Whether the body names `varargs`, `kwargs` and `caller`: only then are they accepted.
    pub takes: Takes,
}

/// The special names that a macro's body uses.
#[derive(Clone, Copy, Default)]
pub(super) struct Takes {
    pub varargs: bool,
    pub kwargs: bool,
    pub caller: bool,
}

/// The target of an assignment.
pub(super) enum Target {
    Name(Arc<str>),
    /// An attribute of a namespace.
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

pub(super) enum Expr {
    Constant(Value),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// A value with what is applied to it, in order.
    Chain(Box<Expr>, Vec<ExprStep>),
    /// Arithmetic of one precedence, from left to right.
    Arithmetic(Box<Expr>, Vec<(BinaryOp, Expr)>),
    /// `a ~ b ~ c`.
    Concat(Vec<Expr>),
    /// A chain of comparisons, all of which must hold.
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Conditional {
        test: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
}

/// An operation that is applied to a value.
pub(super) struct ExprStep {
    pub line: u32,
    pub apply: Apply,
}

pub(super) enum Apply {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Arc<str>, Arguments),
    Test { name: Arc<str>, arguments: Arguments, negated: bool },
}

/// The arguments of a call.
#[derive(Default)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*list`.
    pub more: Option<Box<Expr>>,
    /// `**dict`.
    pub more_named: Option<Box<Expr>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CompareOp {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
