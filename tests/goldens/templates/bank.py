"""Templates and expressions that show one thing of the language each."""

H, GEN = "<|im_start|>", "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
def loop(body, over="messages"): return "{% for m in " + over + " %}" + body + "{% endfor %}" + GEN

TEMPLATES = {
 "tojson": loop("{{ m | tojson }}"),
 "tojson ascii": loop("{{ m.content | tojson(ensure_ascii=True) }}"),
 "tojson separators": loop("{{ m | tojson(separators=(',', ':')) }}"),
 "tojson indent": loop("{{ [m, [], {}, [1]] | tojson(indent=2) }}"),
 "tojson indent text": loop("{{ m | tojson(indent='\\t') }}"),
 "tojson sorted": loop("{{ m | tojson(sort_keys=true) }}"),
 "tojson keys": "{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}",
 "items": loop("{% for k, v in m.items() %}{{ k ~ '=' ~ v ~ ';' }}{% endfor %}"),
 "items filter": loop("{% for k, v in m|items %}{{ k ~ '=' ~ v ~ ';' }}{% endfor %}"),
 "dictsort": loop("{% for k, v in m|dictsort %}{{ k ~ '=' ~ v ~ ';' }}{% endfor %}"),
 "strftime": "{{ strftime_now('%d %b %Y, %A %B %H:%M:%S %j %y %p %I %e %-d %m %F %T %U %W %w %u %D %c %%') }}" + loop(TURN),
 "strftime if": "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% else %}{% set d = 'no' %}{% endif %}{{ d }}",
 "break continue": loop("{% if loop.index > 2 %}{% break %}{% endif %}{% if m.role == 'system' %}{% continue %}{% endif %}" + TURN),
 "generation": loop("{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}" + TURN + "{% endif %}"),
 "generation scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
 "namespace": "{% set ns = namespace(s='', n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role %}{% endfor %}{{ ns.s }}{{ ns.n }}{{ ns.x is defined }}",
 "namespace underscore": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}",
 "set in a loop": "{% set x = 0 %}{% for m in messages %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
 "set in an if": "{% if true %}{% set x = 5 %}{% endif %}{{ x }}",
 "set in a with": "{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% set x = 3 %}{{ x }}{% endwith %}{{ x }}",
 "set pair": "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}",
 "set wrong pair": "{% set a, b = 1, 2, 3 %}{{ a }}",
 "set block": "{% set x | upper %}a{{ 'b' }}{% endset %}{{ x }}",
 "set block scope": "{% set y = 1 %}{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}",
 "filter block": "{% filter upper | replace('B', 'x') %}abc{% endfilter %}",
 "call block": "{% macro f(a) %}[{{ a }}{{ caller() }}]{% endmacro %}{% call f(1) %}x{% endcall %}",
 "call block with arguments": "{% macro f() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b=0) f() %}{{ a }}{{ b }}{% endcall %}",
 "macro": "{% macro f(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=1, a=2) }}{{ f() }}",
 "macro varargs": "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}",
 "macro too many": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
 "macro unknown keyword": "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
 "macro sees globals": "{% set x = 1 %}{% macro f() %}{{ x }}{{ messages | length }}{% endmacro %}{% set x = 2 %}{{ f() }}",
 "macro in loop": "{% macro f() %}{{ m is defined }}{% endmacro %}{% for m in messages %}{{ f() }}{% endfor %}",
 "macro recursion": "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
 "macro output is text": "{% macro f() %}7{% endmacro %}{{ f() | int + 1 }}{{ f() is string }}",
 "loop": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
 "loop neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{{ '|' if not loop.last }}{% endfor %}",
 "loop if": "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ m.content }}{% else %}none{% endfor %}",
 "loop if lazy": "{% set ns = namespace(done=false) %}{% for m in messages if not ns.done %}{{ m.role }}{% set ns.done = true %}{% endfor %}",
 "loop else": "{% for m in [] %}x{% else %}none{% endfor %}",
 "loop recursive": "{% for i in [1, [2, [3]], 4] recursive %}{% if i is number %}{{ i }}{% else %}({{ loop(i) }}{{ loop.depth }}){% endif %}{% endfor %}",
 "loop over text": "{% for c in 'a\u00e9b' %}{{ c }}-{% endfor %}",
 "loop over dict": "{% for k in messages[0] %}{{ k }}-{% endfor %}",
 "loop over undefined": "{% for k in nothing %}{{ k }}{% else %}empty{% endfor %}",
 "loop over number": "{% for k in 5 %}{{ k }}{% endfor %}",
 "loop unpack": "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
 "loop range": "{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}",
 "nested break": "{% for a in [1, 2] %}{% for b in [1, 2] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }}{% endfor %}{% endfor %}",
 "break in else": "{% for a in [1, 2] %}{{ a }}{% for b in [] %}{% else %}{% break %}{% endfor %}{% endfor %}",
 "elif": loop("{% if m.role == 'user' %}u{% elif m.role == 'system' %}s{% elif m.role == 'x' %}x{% else %}e{% endif %}"),
 "raise": loop("{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURN),
 "print dict": loop("{{ m }}"),
 "print items": loop("{{ m.items() }}{{ m.keys() }}{{ m.values() }}"),
 "print generator": loop("{{ m | map('upper') }}"),
 "append": "{% set l = [] %}{% set _ = l.append(1) %}{{ l }}",
 "append as a test": "{% set l = [1] %}{{ l.append is defined }}",
 "do": "{% set l = [] %}{% do l.append(1) %}{{ l }}",
 "dict method name": "{% set d = {'items': 1, 'x': 2} %}{{ d.x }}{{ d['items'] }}{{ d.items() | list }}",
 "undefined attribute": loop("{{ m.nothing }}|{{ m.nothing is defined }}|{{ m['nothing'] is none }}|{{ m.nothing is not none }}"),
 "undefined attribute of undefined": "{{ messages[0].nothing.more }}",
 "undefined added": "{{ 'a' + nothing }}",
 "undefined joined": "{{ 'a' ~ nothing }}",
 "undefined called": "{{ nothing() }}",
 "undefined filter": "{{ 'a' | nothing }}",
 "undefined test": "{{ 'a' is nothing }}",
 "undefined in tojson": "{{ nothing | tojson }}",
 "undefined upper": "{{ nothing | upper }}{{ nothing | trim }}{{ nothing | length }}{{ nothing | list }}{{ nothing | join(',') }}{{ nothing | items | list }}",
 "undefined equal": "{{ nothing == other }}{{ nothing == none }}{{ nothing in [1] }}{{ 1 in nothing }}",
 "whitespace": "  {% if true %}  \n  a\n  {% endif %}\n  {{ 'b' }}  \n\n{#- x -#}\n c \n",
 "whitespace minus": "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
 "whitespace plus": "a\n  {%+ if true %}\n  b\n  {%+ endif +%}\nc\n",
 "whitespace output": "a\n  {{- 'x' -}}  \n b\n   {{ 'y' }}\n",
 "comment": "a\n  {# c #}\nb{# d #} e\n {#- f +#}\n g",
 "raw": "{% raw %}{{ x }} {% y %}{% endraw %}a\n{%- raw -%}  b {{  {%- endraw -%}  c",
 "trailing newline": "a\n\n",
 "carriage returns": "a\r\nb\rc\r\n",
 "strings": "{{ 'a\\nb\\tc\\'\\\"\\\\d\\x41\\u00e9\\101\\q' }}{{ \"it's\" }}{{ 'a' 'b' }}",
 "bad escape": "{{ '\\x4' }}",
 "braces in a tag": "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': 1}}}",
 "percent in a tag": "{{ 7 % 4 }}{{ '%}' }}{{ '}}' }}",
 "unclosed": "{{ 'a' ",
 "unclosed block": "{% if true %}a",
 "wrong end": "{% if true %}a{% endfor %}",
 "unknown tag": "{% nothing %}",
 "empty output": "{{ }}",
 "wrong brackets": "{{ (1] }}",
 "chained comparisons": "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 == true }}",
 "deep content": loop("{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"),
 "bool print": loop("{{ m.role == 'user' }}"),
 "tuple output": "{{ 1, 2 }}{{ (1,) }}{{ () }}",
 "inline if without else": "[{{ 'x' if false }}]",
 "safe": "{{ '<b>' | safe }}{{ [1, '<'] | tojson | safe }}",
 "groupby": "{% for g, l in messages | groupby('role') %}{{ g }}:{{ l | length }};{% endfor %}",
 "batch": "{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}",
 "select": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('/') }}{{ messages | rejectattr('role', 'in', ['user', 'system']) | list | length }}{{ [0, 1, none, 'a'] | select | list }}{{ [1, 2, 3] | reject('odd') | list }}",
 "generator read twice": "{% set g = [1, 2] | map('string') %}{{ g | list }}{{ g | list }}",
 "generator length": "{{ [1] | map('string') | length }}",
 "print tag": "{% print 'a', 1 %}",
 "include": "{% include 'x' %}",
 "surrogate": "{{ 'a' }}\u00e9\U0001f389",
 "caller undefined": "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}",
 "loop variable after": "{% for i in [1] %}{% endfor %}{{ i is defined }}{{ loop is defined }}",
 "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ sep_token is defined }}",
}

EXPRESSIONS = """
'%s' % 1
'%s and %s' % ('a', 2)
'%d|%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5, 6)
'%.2f|%8.3f|%e|%g|%G' % (1.2345, 2.5, 12345.678, 0.00001234, 1e20)
'%x %X %o %c %r %%' % (255, 255, 8, 'a', 'q')
'%(a)s %(b)5s|' % {'a': 1, 'b': 'x'}
'%s' % [1, 2]
'%s' % ('a',)
'%s' % none
'%s %s' % ('a',)
'%s' % ('a', 'b')
'a' % 1
'a' % [1]
'%d' % 'x'
'%5.1s|' % 'abc'
'%*d|' % (5, 1)
'{} {}'.format(1, 'a')
'{1} {0} {x}'.format(1, 2, x=3)
'{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd')
'{:5}|{:05d}|{:,}|{:+}|{:.2f}|{:%}|{:x}|{:#x}|{:e}|{:_}'.format(1, 2, 1234567, 3, 2.345, 0.5, 255, 255, 12.5, 1234567)
'{!r} {!s}'.format('a', 'b')
'{0[a]} {0[b]}'.format(d)
'{a.b}'.format(a={'b': 1})
'{{}} {}'.format(1)
'{:{}}|'.format('a', 4)
'{}'.format()
'{:.3}|{:10.4}|{:g}|{}'.format(1.23456, 2.0, 3.0, 4.0)
'{:d}'.format('a')
'{:>3}'.format(none)
'{}'.format(none)
'{:s}'.format(1)
'{'.format(1)
text.upper(), text.lower(), text.title(), text.capitalize(), text.swapcase()
text.startswith('Hello'), text.startswith(('x', 'H')), text.endswith('d'), text.startswith('ello', 1)
text.find('o'), text.rfind('o'), text.find('zz'), text.count('l'), text.find('o', 5), text.index('W')
text.index('zz')
text.split(), text.split(','), text.split('o', 1), text.rsplit('o', 1), 'a  b '.split(), 'a,b,'.split(',')
' a b  c '.split(none, 1), ' a b  c '.rsplit(none, 1), ''.split(), ''.split(',')
text.split('')
text.replace('l', 'L'), text.replace('l', 'L', 1), text.replace('', '-'), 'aaa'.replace('aa', 'b')
'  x '.strip(), '  x '.lstrip(), '  x '.rstrip(), 'xxaxx'.strip('x'), 'abcab'.strip('ab'), 'xa'.lstrip('x')
'a\\nb\\r\\nc'.splitlines(), 'a\\nb\\n'.splitlines(true), ''.splitlines()
'a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'abc'.partition('-')
'abc'.removeprefix('a'), 'abc'.removesuffix('c'), 'abc'.removeprefix('x')
'-'.join(['a', 'b']), '-'.join('abc')
'-'.join([1, 2])
'x'.center(5), 'x'.center(4, '*'), 'x'.ljust(3, '.'), 'x'.rjust(3), 'ab'.center(5, '-'), 'ab'.center(4, '-')
'7'.zfill(3)
'abc'.isalpha(), 'ab1'.isalnum(), '12'.isdigit(), ' '.isspace(), 'aB'.islower(), 'AB'.isupper(), 'Ab Cd'.istitle(), ''.isalpha()
'\\u00b2'.isdigit(), '\\u00b2'.isdecimal(), '\\u00bd'.isnumeric(), '\\u0661'.isdecimal(), 'a_1'.isidentifier(), '1a'.isidentifier()
'a\\tb'.expandtabs(), 'a\\tb'.expandtabs(4)
'stra\\u00dfe'.upper(), '\\u00c9A'.lower(), '\\u01c6x'.capitalize()
'abc'[0], 'abc'[-1], 'abc'[1:], 'abc'[::-1], 'abc'[:-1], 'abc'[5:], 'abcdef'[1:5:2], 'abc'[-2:]
'abc'[5] is defined, numbers[7] is defined, numbers[-1], numbers[1:], numbers[::-1]
numbers[5].x
numbers + [4], [1] * 3, 'ab' * 2, 2 * 'ab', (1,) + (2,), [] + []
[1] + (2,)
1 + 'a'
'a' + 1
'a' - 'b'
1 + 2 * 3 - 4 / 2, 7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 % -3, 2 ** 10, 2 ** -1, 2.0 ** 3, 7.5 // 2, -7.5 % 2
1 / 0
1 // 0
1 % 0
1 / 3, 10 / 5, 1e16, 1e15, 1e-5, 0.0001, 1.0, -0.0, 123456789.123, 1e100, 5e-324
2 ** 3 ** 2, -2 ** 2, (-2) ** 2, - - 3, +3, not not 1
1_000, 0x1f, 0b101, 0o17, 1e3, 1.5e-3, 1_0.5
true + true, true * 3, -true, true == 1, false < true
1 == 1.0, '1' == 1, [1] == [1], (1,) == [1], {'a': 1} == {'a': 1.0}, none == false, 'a' < 'b', [1, 2] < [1, 3]
1 < 'a'
none < 1
[1] < (1,)
'a' in 'abc', 1 in [1, 2], 'a' in d, 'z' not in d, 1 in (1,), none in [none]
1 in 'abc'
1 in 5
'a' if true else 'b', 'a' if false else 'b', ('a' if false) is defined
1 and 2, 0 or 'x', not 1, none or false, 1 and 0 or 3, '' or []
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'a': none}
1 + 2 ~ 3, 1 ~ 2 + 3
d, d.b, d['a'], d.a[1], d.get('a'), d.get('z'), d.get('z', 5), d.C
d.keys() | list, d.values() | list, d.items() | list, d | list, d | length
d.get()
d.nothing, d['nothing'] is undefined
d.pop('a')
d.update({'x': 1})
d.__class__
''.__class__.__mro__
text.nothing
numbers.append(4)
numbers.index(1), numbers.count(3), numbers.copy()
numbers | sort, numbers | sort(reverse=true), ['b', 'A', 'c'] | sort, ['b', 'A'] | sort(case_sensitive=true)
[1, 'a'] | sort
[{'n': 2, 'm': 1}, {'n': 1, 'm': 2}] | sort(attribute='n'), [{'n': 1, 'm': 2}, {'n': 1, 'm': 1}] | sort(attribute='n,m')
numbers | first, numbers | last, numbers | min, numbers | max, numbers | sum, [] | first is defined, [] | max is defined
numbers | reverse | list, 'abc' | reverse, numbers | length, 'abc' | length, numbers | join('-'), numbers | join
[1, 2, 1, 'a', 'A'] | unique | list
numbers | map('string') | list, ['a', 'b'] | map('upper') | join, [[1, 2], [3]] | map('join', '+') | list
[{'a': {'b': 1}}] | map(attribute='a.b') | list, [{'a': 1}, {}] | map(attribute='a', default=0) | list
'a b c' | title, "it's a-b (c)" | title, 'aBC' | capitalize, 'x' | center(5), ' x ' | trim, 'xax' | trim('x')
'hello world foo' | truncate(11), 'hello world foo' | truncate(9), 'hello world foo' | truncate(9, true), 'hello' | truncate(3, true, '')
'a\\nb\\n\\nc' | indent, 'a\\nb' | indent(2, true), 'a\\n\\nb' | indent(2, blank=true), 'a\\nb' | indent('> '), '' | indent(2, true)
'a b  c' | wordcount, 'abc' | replace('b', 'x'), 'aaa' | replace('a', 'b', 2), 5 | replace(5, 6)
'5' | int, 'x' | int, 'x' | int(7), '0x1f' | int(base=16), 5.9 | int, '5.9' | int, ' 12 ' | int, '1_000' | int, none | int, true | int
'1.5' | float, 'x' | float, 'x' | float(2.0), 3 | float, 'inf' | float
1.5 | round, 2.5 | round, 2.567 | round(2), 2.1 | round(method='ceil'), 2.9 | round(0, 'floor'), 7 | round, -1.5 | round
-3 | abs, 3.5 | abs, 'a' | string, 1 | string, none | string
none | default('x'), nothing | default('x'), '' | default('x'), '' | default('x', true), nothing | d
'%s-%s' | format('a', 'b'), '%(x)s' | format(x=1)
'a b/c&d\\u00e9' | urlencode
5 is odd, 4 is even, 6 is divisibleby(3), 6 is divisibleby 4, 'a' is string, 1 is number, 1.5 is float, 1 is integer, true is integer, true is boolean
none is none, 1 is none, d is mapping, numbers is sequence, 'a' is sequence, d is sequence, numbers is iterable, 5 is iterable, nothing is iterable
'a' is eq 'a', 1 is ne 2, 1 is lt 2, 2 is ge 2, 1 is in [1], 'a' is sameas 'a', true is true, 1 is true, 'abc' is lower, 'ABC' is upper
5 is not odd, nothing is not defined, 'upper' is filter, 'nope' is filter, range is callable, 5 is callable
5 is odd is even
range(3) | list, range(1, 4) | list, range(5, 0, -2) | list, range(0) | list, range(10)[2], range(10) | length
range(100001)
range(1, 2, 0)
dict(a=1, b=2), dict([('a', 1)]), dict(d, z=1), dict.fromkeys(['a', 'b'], 1)
namespace(a=1).a
[1, 2] | tojson, {'a': [1, 'x', none, true, 1.5]} | tojson, 'a"b\\\\c\\n\\x01</script>' | tojson, 'é\\x7f' | tojson(true), [] | tojson(indent=2)
{'a': (1, 2)} | tojson, 1e16 | tojson, 'inf' | float | tojson
{(1, 2): 3} | tojson
range | tojson
['a\\'b', 'a"b', 'a\\'b"c', 'é', '\\x00', '\\n\\t\\\\', '\\u200b', '\\U0001f389', '\\u0301']
[1.0, none, true, (1,), {}, {'k': {'n': [()]}}]
messages[0], messages
messages[0].items() | list, messages[0] | items | list, messages[0] | dictsort(by='value')
messages[0].name ~ messages[0]['n'] ~ messages[0].x ~ messages[0].f
'a' 'b' "c"
(1, 2)[0], [1, [2, 3]][1][0], {'a': {'b': 2}}.a.b, 'x,y'.split(',')[1], (text | upper).lower()
text | upper | lower | title, -5 | abs, 2 * 3 | string
'abc' is not string and true
messages | length > 0 and messages[-1].role == 'user'
messages | selectattr('nothing') | list, messages | selectattr('name', 'defined') | list | length
[3, 1] | sort | first ~ 'x'
'a' and 'b' or 'c', 'x' in ['x'] and 'y' not in ['x']
{'a': 1, 'a': 2, 'b': 3}, {1: 'a', true: 'b', 1.0: 'c'}
[1, 2, 3] | sum(start=10), [{'v': 1}, {'v': 2}] | sum(attribute='v')
[[1]] | sum(start=[])
loop
'é'|length, '🎉'|length, 'e\\u0301'|length, 'é'.upper(), 'ß'.upper()
{[1]: 2}
d[[1]] is defined
'A' 'b'.lower()
1 if 2 else 3 if 4 else 5
'abc'.format_map({'a': 1}), '{a}'.format_map({'a': 1})
'tab\\there'.split('\\t'), 'a\\x0bb'.split(), 'a\\x1cb'.split(), '\\x1f a'.strip() | length
9223372036854775807, -9223372036854775807
'aXbX'.rsplit('X'), 'XaX'.split('X'), 'a'.split('a')
text | list | first, text | first, text | last, text | random is defined
[1,2,3][-2:], [1,2,3][10:], [1,2,3][:-10], [1,2,3][::2], [1,2,3][2:0:-1], (1,2,3)[1:]
'%.3s|%10s|%-10s|' % ('abcdef', 'r', 'l')
'%s' % {'a': 1}
'%s %s' % [1, 2]
'%i%%' % 99.9
""".strip().split("\n")
EXPRESSIONS = [e for e in EXPRESSIONS if e != "text | list | first, text | first, text | last, text | random is defined"]
