//! The program as a child process.
#![allow(dead_code)] // each test file uses a part

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bei-router"));
    command.stderr(Stdio::piped()).env_remove("HOSTNAME");
    command
}

/// The lines that a child logs.
pub fn lines(child: &mut Child) -> Lines<BufReader<ChildStderr>> {
    BufReader::new(child.stderr.take().unwrap()).lines()
}

/// Reads log lines until one holds `part`, and returns it.
pub fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, part: &str) -> String {
    let mut seen = String::new();
    for line in lines {
        let line = line.unwrap();
        if line.contains(part) {
            return line;
        }
        seen += &format!("{line}\n");
    }
    panic!("{part:?} was not logged:\n{seen}");
}

pub fn wait(mut child: Child) -> i32 {
    let start = Instant::now();
    while start.elapsed() < super::PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("ended by a signal");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("the program did not end");
}

/// The address in a line such as "ready on 127.0.0.1:3000; try: ...".
pub fn address(line: &str, before: &str) -> String {
    let rest = line.split(before).nth(1).unwrap();
    rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next().unwrap().to_string()
}

/// Sends a signal.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}
