//! Reads what include/bei.h declares. It understands exactly that header's plain C: `#define NAME value`, anonymous
//! enums, structs of scalars and pointers, and prototypes.

/// A struct of the header and its field names, in order.
pub struct Struct {
    pub name: String,
    pub fields: Vec<String>,
}

/// Everything declared in the header.
pub struct Header {
    pub constants: Vec<String>,
    pub initializers: Vec<String>,
    pub structs: Vec<Struct>,
    /// Each prototype as the Rust declaration that matches it.
    pub functions: Vec<(String, String)>,
}

/// Parses the text of the header.
pub fn parse(text: &str) -> Header {
    let mut header = Header { constants: vec![], initializers: vec![], structs: vec![], functions: vec![] };
    let text = strip_comments(text);
    let mut code = String::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix('#') {
            Some(directive) => define(directive, &mut header),
            None if line.trim_start().starts_with("extern \"C\"") => {}
            None => {
                code.push_str(line);
                code.push(' ');
            }
        }
    }
    for statement in statements(&code) {
        declaration(&statement, &mut header);
    }
    header
}

fn strip_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        out.push_str(&rest[..start]);
        let end = rest[start..].find("*/").expect("a comment is not closed");
        rest = &rest[start + end + 2..];
    }
    out.push_str(rest);
    out
}

fn define(directive: &str, header: &mut Header) {
    let words: Vec<&str> = directive.split_whitespace().collect();
    if words.len() < 3 || words[0] != "define" {
        return;
    }
    let list = if words[2].starts_with('{') { &mut header.initializers } else { &mut header.constants };
    list.push(words[1].to_string());
}

/// Splits at semicolons outside braces, and drops the closing brace of extern "C".
fn statements(code: &str) -> Vec<String> {
    let (mut list, mut current, mut depth) = (vec![], String::new(), 0);
    for c in code.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => continue,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                list.push(std::mem::take(&mut current).trim().to_string());
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    assert_eq!(current.trim(), "", "the header ends inside a declaration");
    list
}

fn declaration(statement: &str, header: &mut Header) {
    let words: Vec<&str> = statement.split_whitespace().collect();
    let body = || &statement[statement.find('{').unwrap() + 1..statement.rfind('}').unwrap()];
    match words.as_slice() {
        ["enum", ..] => {
            let names = body().split(',').map(|member| member.split('=').next().unwrap().trim());
            header.constants.extend(names.filter(|name| !name.is_empty()).map(String::from));
        }
        ["typedef", "struct", name, "{", ..] => {
            let fields = body().split(';').map(str::trim).filter(|field| !field.is_empty());
            let fields = fields.map(|field| typed_name(field).1).collect();
            header.structs.push(Struct { name: name.to_string(), fields });
        }
        ["typedef", ..] => {}
        _ => header.functions.push(prototype(statement)),
    }
}

/// Turns `bei_error *bei_x(const char *a, size_t b)` into its name and `fn bei_x(a: *const c_char, b: usize) -> ..`.
fn prototype(statement: &str) -> (String, String) {
    let (head, arguments) =
        statement.split_once('(').unwrap_or_else(|| panic!("not a prototype: {statement}"));
    let arguments = arguments.trim().strip_suffix(')').unwrap();
    let (returns, name) = typed_name(head);
    let arguments: Vec<String> = arguments
        .split(',')
        .filter(|argument| argument.trim() != "void")
        .map(|argument| {
            let (kind, name) = typed_name(argument.trim());
            let name = if name == "fn" { "r#fn".to_string() } else { name };
            format!("{name}: {kind}")
        })
        .collect();
    let returns = if returns == "()" { String::new() } else { format!(" -> {returns}") };
    let declaration = format!("pub fn {name}({}){returns};", arguments.join(", "));
    (name, declaration)
}

/// Splits `const uint32_t **ids` into the Rust type `*mut *const u32` and the name `ids`.
fn typed_name(text: &str) -> (String, String) {
    let split = text.rfind([' ', '*']).unwrap_or_else(|| panic!("no type and name: {text}")) + 1;
    let (kind, name) = text.split_at(split);
    let pointers = kind.matches('*').count();
    let constant = kind.contains("const ");
    let base = kind.replace("const ", "").replace('*', "");
    let base = match base.trim() {
        "void" if pointers > 0 => "c_void",
        "void" => "()",
        "char" => "c_char",
        "float" => "f32",
        "size_t" => "usize",
        "int32_t" => "i32",
        "uint8_t" => "u8",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        ours => {
            assert!(ours.starts_with("bei_"), "unknown C type {ours:?} in {text:?}");
            ours
        }
    };
    let mut rust = String::new();
    for level in 0..pointers {
        // `const` stands before the innermost type, so only the last pointer is to a constant.
        rust.push_str(if constant && level + 1 == pointers { "*const " } else { "*mut " });
    }
    (rust + base, name.to_string())
}
