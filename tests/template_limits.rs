//! Templates that ask for more than a template may have: each is refused, or gives what it gives, within a bounded stack
//! and bounded memory. The inputs are small; without the limits each of them ends the process or does not end.
//!
//! A binary of its own: the test measures the peak memory of its process.

use reflux::jinja::{RenderOptions, Template, TemplateErrorKind, Value, Whitespace};

/// As chat templates have it for a short conversation.
const SETTINGS: RenderOptions = RenderOptions { work: 1_000_000, output: 1 << 20, strict: false, now: None };
/// A thread's stack in KiB, of which a rendering takes a part.
const STACK: usize = 768;
const MOST_MEMORY: u64 = 256;

/// The most memory that this process ever had in use, in MiB; nothing where the system does not tell.
fn most_used() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

/// The kind of error that a template ends with; none if it is rendered.
fn outcome(template: &str) -> Option<TemplateErrorKind> {
    let turn = Value::dict([("role", "user".into()), ("content", "hi".into())]).unwrap();
    let messages = Value::list(vec![turn]).unwrap();
    let parsed = Template::parse(template, Whitespace::Trimmed);
    parsed.and_then(|t| t.render(&[("messages", messages)], SETTINGS)).err().map(|e| e.kind)
}

fn bombs() -> Vec<(&'static str, String)> {
    let rep = |s: &str, n: usize| s.repeat(n);
    vec![
        ("self", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ ns.x.x.x is defined }}".into()),
        ("self in list", "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}".into()),
        ("not", "{{ ".to_string() + &rep("not ", 100_000) + "1 }}"),
        ("minus", "{{ ".to_string() + &rep("- ", 100_000) + "1 }}"),
        ("parens", "{{ ".to_string() + &rep("(", 100_000) + "1" + &rep(")", 100_000) + " }}"),
        ("lists", "{{ ".to_string() + &rep("[", 100_000) + &rep("]", 100_000) + " }}"),
        ("elif", "{% if 0 %}".to_string() + &rep("{% elif 0 %}", 40_000) + "{% endif %}"),
        ("filters", "{{ 'a'".to_string() + &rep("|upper", 80_000) + " }}"),
        ("attrs", "{{ a".to_string() + &rep(".a", 200_000) + " }}"),
        ("calls", "{{ a".to_string() + &rep("()", 200_000) + " }}"),
        ("items", "{{ messages".to_string() + &rep("[0]", 100_000) + " }}"),
        ("plus", "{{ 1".to_string() + &rep("+1", 200_000) + " }}"),
        ("tilde", "{{ 1".to_string() + &rep("~1", 200_000) + " }}"),
        ("pow", "{{ 1".to_string() + &rep("**1", 160_000) + " }}"),
        ("and", "{{ 1".to_string() + &rep(" and 1", 80_000) + " }}"),
        ("lt", "{{ 1".to_string() + &rep("<2", 200_000) + " }}"),
        ("if else", "{{ 1".to_string() + &rep(" if 0 else 1", 40_000) + " }}"),
        ("if if", "{{ 1".to_string() + &rep(" if 1", 90_000) + " }}"),
        ("ifs", rep("{% if 1 %}", 40_000)),
        ("fors", rep("{% for a in [1,2,3] %}", 20_000)),
        ("fors 90", rep("{% for a in [1,2,3] %}", 90) + "x" + &rep("{% endfor %}", 90)),
        ("macros", rep("{% macro a() %}", 30_000)),
        ("recursion", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}".into()),
        ("recursion deep", "{% macro a() %}".to_string() + &rep("{% if 1 %}", 90) + "{{ (((((((((([a()]|first))))))))))~'' }}" + &rep("{% endif %}", 90) + "{% endmacro %}{{ a() }}"),
        ("recursive loop", "{% for x in 'a' recursive %}{{ loop('a') }}{% endfor %}".into()),
        ("map map", "{{ 'a'|map(".to_string() + &rep("'map',", 80_000) + "'upper')|list }}"),
        ("double", "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}".into()),
        ("double list", "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}".into()),
        ("nest list", "{% set ns = namespace(x=[1]) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".into()),
        ("nest namespaces", "{% set ns = namespace(x=1) %}{% for a in range(99999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}".into()),
        ("share", "{% set ns = namespace(x='x'*1000) %}{% for a in range(30) %}{% set ns.x = [ns.x,ns.x,ns.x,ns.x] %}{% endfor %}{{ ns.x }}".into()),
        ("share tojson", "{% set ns = namespace(x='x'*1000) %}{% for a in range(30) %}{% set ns.x = [ns.x,ns.x,ns.x,ns.x] %}{% endfor %}{{ ns.x|tojson }}".into()),
        ("share eq", "{% set ns = namespace(x=[1],y=[1]) %}{% for a in range(30) %}{% set ns.x = [ns.x,ns.x] %}{% set ns.y = [ns.y,ns.y] %}{% endfor %}{{ ns.x == ns.y }}".into()),
        ("share sort", "{% set ns = namespace(x=[1],y=[1]) %}{% for a in range(30) %}{% set ns.x = [ns.x,ns.x] %}{% set ns.y = [ns.y,ns.y] %}{% endfor %}{{ [ns.x, ns.y]|sort }}".into()),
        ("multiply", "{{ 'x' * 999999999999 }}".into()),
        ("multiply list", "{{ [1] * 999999999999 }}".into()),
        ("multiply nothing", "{{ [] * 9223372036854775807 }}{{ () * 9223372036854775807 }}{{ '' * 9223372036854775807 }}".into()),
        ("multiply some", "{% for i in range(99999) %}{{ ('x' * 1000000)|length }}{% endfor %}".into()),
        ("format width", "{{ '{:999999999999}'.format(1) }}".into()),
        ("format precision", "{{ '{:.999999f}'.format(1.5) }}".into()),
        ("percent width", "{{ '%999999999999d' % 1 }}".into()),
        ("percent star", "{{ '%*d' % (999999999999, 1) }}".into()),
        ("center", "{{ 'x'|center(999999999999) }}{{ 'x'.rjust(99999999999) }}".into()),
        ("indent", "{{ 'x'|indent(999999999999) }}".into()),
        ("indent lines", "{{ ('x\n' * 100000)|indent(100000) }}".into()),
        ("tojson indent", "{{ [[[1]]]|tojson(indent=999999999999) }}".into()),
        ("tojson separators", "{{ ([1]*1000)|tojson(separators=('x'*100000, 'y')) }}".into()),
        ("join", "{{ (['x' * 100000] * 1000)|join('y' * 100000) }}".into()),
        ("replace", "{{ ('x' * 100000).replace('', 'y' * 100000) }}".into()),
        ("batch", "{{ [1]|batch(999999999999, 'x')|list }}".into()),
        ("slice", "{{ [1]|slice(999999999999)|list }}".into()),
        ("range", "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".into()),
        ("expandtabs", "{{ ('\t' * 10000).expandtabs(99999999999) }}".into()),
        ("zfill", "{{ 'x'.zfill(99999999999) }}".into()),
        ("strip", "{% for i in range(9999) %}{% set x = ('x' * 10000).strip('y' * 10000) %}{% endfor %}".into()),
        ("split", "{% set ns = namespace() %}{% for i in range(9999) %}{% set ns.x = ('x ' * 10000).split() %}{% endfor %}".into()),
        ("many variables", (0..30_000).map(|i| format!("{{%set a{i}=1%}}")).collect::<String>()),
        ("dict", "{{ {".to_string() + &(0..40_000).map(|i| format!("{i}:1,")).collect::<String>() + "}|length }}"),
        ("scopes", "{% for i in range(99999) %}{% set a = i %}{% set b = i %}{% set c = i %}{% endfor %}".into()),
        ("texts", "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ['a'] %}{% endfor %}".into()),
        ("output", "{% set x = 'x' * 100000 %}{% for i in range(9999) %}{{ x }}{% endfor %}".into()),
        ("capture", "{% set x = 'x' * 100000 %}{% set y %}{% for i in range(9999) %}{{ x }}{% endfor %}{% endset %}".into()),
        ("captures", rep("{% set y %}aaaaaaaaaaaaaaaaaaaaa", 90) + &rep("{% endset %}", 90)),
        ("comments", rep("{##}", 120_000)),
        ("texts in source", rep("{{'a'}}", 70_000)),
        ("open comment", rep("{#", 250_000)),
        ("raw", rep("{%raw%}{%", 50_000)),
        ("spaces", rep("{{ 1 -}} \n", 50_000)),
        ("unescape", "{{ '".to_string() + &rep("\\x41", 120_000) + "' }}"),
        ("unique", "{{ range(99999)|unique|list|length }}".into()),
        ("groupby", "{{ messages|groupby('content' * 100000) }}".into()),
        ("path", "{{ messages|map(attribute='a.' * 100000)|list }}".into()),
        ("format fields", "{{ ('{}' * 100000).format(1) }}".into()),
        ("format nest", "{{ ('{:' * 100000).format(1) }}".into()),
        ("format attr", "{{ ('{0' ~ '.a' * 100000 ~ '}').format({}) }}".into()),
        ("kwargs", "{% macro a() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ a(*range(99999)) }}".into()),
        ("upper", "{% for i in range(9999) %}{% set x = ('ß' * 100000)|upper %}{% endfor %}".into()),
        ("contains", "{% set x = 'a' * 100000 %}{% for i in range(99999) %}{% if 'aaaaab' in x %}{% endif %}{% endfor %}".into()),
        ("char", "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x[i] }}{% endfor %}".into()),
        ("slices", "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% set y = x[1:] %}{% endfor %}".into()),
        ("elements", "{% set x = 'a' * 500000 %}{{ x|list|length }}{{ x|list|length }}{{ x|list|length }}".into()),
        ("long name", "{{ ".to_string() + &rep("a", 500_000) + " }}"),
    ]
}

#[test]
fn no_template_overflows_the_stack_or_takes_memory_without_bound() {
    let work = || {
        let before = most_used();
        let mut limited = 0;
        for (name, template) in bombs() {
            // Printed by a failing test: an overflow does not say which template it was.
            println!("{name}");
            limited += usize::from(outcome(&template) == Some(TemplateErrorKind::Limit));
            if let (Some(before), Some(now)) = (before, most_used()) {
                assert!(now < before + MOST_MEMORY, "{name}: {} MiB more", now - before);
            }
        }
        assert!(limited > 50, "only {limited} of them came to a limit");
    };
    std::thread::Builder::new().stack_size(STACK << 10).spawn(work).unwrap().join().unwrap();
}

#[test]
fn real_conversations_are_far_from_the_limits() {
    let template =
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}";
    let turn = Value::dict([("role", "user".into()), ("content", "x".repeat(1000).as_str().into())]).unwrap();
    let messages = Value::list(vec![turn; 200]).unwrap();
    let settings = RenderOptions { work: SETTINGS.work / 10, ..SETTINGS };
    let template = Template::parse(template, Whitespace::Trimmed).unwrap();
    assert_eq!(template.render(&[("messages", messages)], settings).unwrap().len(), 200 * (12 + 4 + 1 + 1000 + 11));
}
