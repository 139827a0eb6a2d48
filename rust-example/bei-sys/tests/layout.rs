//! Compares bei-sys with include/bei.h: the header is parsed for its names, compiled for its numbers, and every one must
//! be here with the same value, and nothing else.

mod header;

use bei_sys::*;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

fn include_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../include")
}

fn read_header() -> header::Header {
    header::parse(&std::fs::read_to_string(include_dir().join("bei.h")).unwrap())
}

fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// "name.field" -> (offset, size), and "name" -> (0, size of the struct).
type Layout = BTreeMap<String, (usize, usize)>;

macro_rules! layout {
    ($($name:ident { $($field:ident),* $(,)? })*) => {{
        let mut layout = Layout::new();
        $(
            layout.insert(stringify!($name).into(), (0, size_of::<$name>()));
            $(layout.insert(
                concat!(stringify!($name), ".", stringify!($field)).into(),
                (offset_of!($name, $field), size_of_field::<$name, _>(|s| &s.$field)),
            );)*
        )*
        layout
    }};
}

fn rust_layout() -> Layout {
    layout! {
        bei_batch {
            struct_size, input_ids, token_type_ids, position_ids, total_tokens, cumulative_seq_lengths,
            num_sequences, pooled_indices, num_pooled, raw_indices, num_raw, sparse_indices, num_sparse,
            max_length, reserved,
        }
        bei_text { text, text_size, pair, pair_size, outputs, reserved }
        bei_span { start, end }
        bei_call_options {
            struct_size, timeout_us, cancel, prompt_name, prompt_name_size, truncate, truncation_side, dimensions,
            normalize, priority, add_special_tokens, skip_special_tokens, aggregation,
            dynamic_batching, caller_runs,
        }
        bei_info {
            struct_size, api_version, model_type, pooling, dimensions, token_dimensions, labels, vocab_size,
            type_vocab_size, position_offset, max_length, max_tokens, max_sequences, best_tokens, slots, is_padded,
            has_tokenizer, normalizes, reserved,
        }
        bei_tokens {
            struct_size, count, ids, type_ids, special, sequence, starts, ends, pieces, piece_offsets,
        }
        bei_entity { label, score, start, end, token, reserved }
        bei_stats { struct_size, total_ns, tokenization_ns, queue_ns, inference_ns, tokens, runs }
    }
}

macro_rules! constants {
    ($($name:ident)*) => {
        BTreeMap::from([$((stringify!($name).to_string(), i64::from($name))),*])
    };
}

fn rust_constants() -> BTreeMap<String, i64> {
    constants! {
        BEI_API_VERSION
        BEI_OK BEI_INVALID_ARGUMENT BEI_INVALID_HANDLE BEI_UNSUPPORTED BEI_NO_BACKEND BEI_START
        BEI_WEIGHTS_NOT_FOUND BEI_INFERENCE BEI_UNHEALTHY BEI_OVERLOADED BEI_TIMEOUT BEI_CANCELLED BEI_SHUT_DOWN
        BEI_FORKED BEI_INTERNAL BEI_BUFFER_TOO_SMALL BEI_EMPTY BEI_TOO_LONG BEI_INVALID_UTF8
        BEI_TOKEN_OUT_OF_RANGE BEI_NON_FINITE BEI_TOKENIZATION BEI_NUL_BYTE
        BEI_LOG_DEBUG BEI_LOG_INFO BEI_LOG_WARN BEI_LOG_ERROR
        BEI_MODEL_EMBEDDING BEI_MODEL_CLASSIFIER BEI_MODEL_TOKEN_CLASSIFIER
        BEI_POOLING_NONE BEI_POOLING_CLS BEI_POOLING_MEAN BEI_POOLING_SPLADE BEI_POOLING_LAST_TOKEN
        BEI_POOLING_OTHER
        BEI_OUTPUT_POOLED BEI_OUTPUT_TOKEN_VECTORS BEI_OUTPUT_SPARSE BEI_OUTPUT_TOKENS
        BEI_DEFAULT BEI_ON BEI_OFF
        BEI_SIDE_DEFAULT BEI_SIDE_RIGHT BEI_SIDE_LEFT
        BEI_PRIORITY_LOW BEI_PRIORITY_NORMAL BEI_PRIORITY_HIGH
        BEI_AGGREGATE_NONE BEI_AGGREGATE_SIMPLE BEI_AGGREGATE_FIRST BEI_AGGREGATE_AVERAGE BEI_AGGREGATE_MAX
    }
}

/// A C program that prints one `name value value` line for each struct, field and constant of the header.
fn c_program(header: &header::Header) -> String {
    let mut lines = String::new();
    for s in &header.structs {
        let name = &s.name;
        lines += &format!("  printf(\"{name} 0 %zu\\n\", sizeof({name}));\n");
        for field in &s.fields {
            lines += &format!(
                "  printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));\n"
            );
        }
    }
    for name in &header.constants {
        lines += &format!("  printf(\"{name} %lld\\n\", (long long){name});\n");
    }
    format!("#include <stdio.h>\n#include \"bei.h\"\nint main(void) {{\n{lines}  return 0;\n}}\n")
}

fn run_c_program(header: &header::Header) -> String {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (dir.join("layout.c"), dir.join("layout"));
    std::fs::write(&source, c_program(header)).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_string());
    let status = Command::new(&compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(include_dir())
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap_or_else(|error| panic!("cannot run the C compiler {compiler:?} (set CC): {error}"));
    assert!(status.success(), "the C compiler refused {}", source.display());
    String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
}

#[test]
fn structs_and_constants_are_those_of_the_header() {
    let header = read_header();
    assert!(header.structs.len() >= 7 && header.constants.len() >= 50, "the header was not understood");
    let (mut layout, mut constants) = (Layout::new(), BTreeMap::new());
    for line in run_c_program(&header).lines() {
        match *line.split(' ').collect::<Vec<_>>() {
            [name, offset, size] => {
                layout.insert(name.to_string(), (offset.parse().unwrap(), size.parse().unwrap()));
            }
            [name, value] => {
                constants.insert(name.to_string(), value.parse::<i64>().unwrap());
            }
            _ => panic!("unexpected line {line:?}"),
        }
    }
    assert_eq!(rust_layout(), layout);
    assert_eq!(rust_constants(), constants);
}

#[test]
fn functions_are_those_of_the_header() {
    let header = read_header();
    let source = include_str!("../src/lib.rs");
    let declared = |line: &&str| line.starts_with("pub fn bei_");
    let ours: BTreeSet<&str> = source.lines().map(str::trim).filter(declared).collect();
    let theirs: BTreeSet<&str> =
        header.functions.iter().map(|(_, declaration)| declaration.as_str()).collect();
    assert!(theirs.len() >= 30, "the header was not understood: {} functions", theirs.len());
    assert_eq!(ours, theirs);
}

#[test]
fn initializers_are_those_of_the_header() {
    let sizes = BTreeMap::from([
        ("BEI_BATCH_INIT", (BEI_BATCH_INIT.struct_size, size_of::<bei_batch>())),
        ("BEI_CALL_OPTIONS_INIT", (BEI_CALL_OPTIONS_INIT.struct_size, size_of::<bei_call_options>())),
        ("BEI_INFO_INIT", (BEI_INFO_INIT.struct_size, size_of::<bei_info>())),
        ("BEI_TOKENS_INIT", (BEI_TOKENS_INIT.struct_size, size_of::<bei_tokens>())),
        ("BEI_STATS_INIT", (BEI_STATS_INIT.struct_size, size_of::<bei_stats>())),
    ]);
    let header = read_header();
    assert_eq!(
        sizes.keys().copied().collect::<BTreeSet<_>>(),
        header.initializers.iter().map(String::as_str).collect()
    );
    for (name, (struct_size, size)) in sizes {
        assert_eq!(struct_size, size, "{name}");
    }
}

#[test]
fn the_library_exports_every_function() {
    let library = Path::new(env!("BEI_LIB_DIR")).join("libbei.so");
    let names = read_header().functions.into_iter().map(|(name, _)| name);
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().unwrap();
    let symbols = String::from_utf8(output.stdout).unwrap();
    let exported: BTreeSet<&str> =
        symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    for name in names {
        assert!(exported.contains(name.as_str()), "{} does not export {name}", library.display());
    }
    // SAFETY: takes nothing and returns a number.
    assert_eq!(unsafe { bei_api_version() }, BEI_API_VERSION);
}
