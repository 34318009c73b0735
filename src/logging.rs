//! The log: lines for standard error, written by a thread of their own.
//!
//! - Nobody who logs ever waits for the reader of standard error. Lines wait in a queue of [`MAX_QUEUED_BYTES`]; what does
//!   not fit is dropped and counted, and a line says how many were, where they are missing.
//! - A record is one line: control characters that reach it through any value are escaped. Otherwise it looks as
//!   `env_logger` writes it.
//! - A panic is logged like everything else, and whatever the filter says.
//! - What is queued at the end is written before the process exits, if that takes no longer than [`LAST_WORDS`].
//!
//! tracing-appender's `NonBlocking`, the crate for this, bounds its queue in lines of any length and tells nobody where
//! some are missing.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::panic::PanicHookInfo;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use env_logger::Target;
use env_logger::fmt::{ConfigurableFormat, Formatter};
use log::{Level, LevelFilter, Log as _, Record};
use prometheus_client::metrics::counter::Counter;

/// Bytes of lines that may wait for the reader of standard error.
pub const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How long the process waits at its end for its last lines to be written.
pub const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long a thread that panics waits for that to be written: perhaps the process is aborted next.
const PANIC_PATIENCE: Duration = Duration::from_millis(100);

/// Characters of a panic's message that are logged.
const MAX_PANIC_CHARS: usize = 500;

/// What is written at once, as far as whole lines allow. No more than a pipe takes in one piece (`PIPE_BUF` on Linux), so
/// that what others write to it does not get into a line.
const MAX_WRITE: usize = 4_096;

/// How long to wait before a standard error that does not block is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// The running log. What is queued is written when it is dropped.
#[derive(Debug)]
pub struct Log(Arc<Queue>);

/// Sends the records that `filter` lets through, and panics, to standard error. `dropped` counts the lines that were not
/// written.
///
/// # Errors
/// If there can be no thread for it.
///
/// # Panics
/// If the process has a logger already.
pub fn start(filter: &str, dropped: Counter) -> io::Result<Log> {
    let queue = Queue::start(io::stderr(), MAX_QUEUED_BYTES, dropped)?;
    env_logger::Builder::new()
        .parse_filters(filter)
        .format(one_line)
        .target(Target::Pipe(Box::new(Lines(queue.clone()))))
        .init();
    let panics = queue.clone();
    std::panic::set_hook(Box::new(move |panic| {
        panics.push(&panic_lines(panic));
        panics.flush(PANIC_PATIENCE);
    }));
    Ok(Log(queue))
}

impl Log {
    /// Adds a line that is no record.
    pub fn say(&self, line: &str) {
        self.0.push(format!("{line}\n").as_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(LAST_WORDS);
    }
}

// ---- The queue

/// Whole lines on their way to a slow writer. Pure.
#[derive(Debug)]
struct Backlog {
    most: usize,
    lines: VecDeque<u8>,
    /// Bytes that have been taken and are not written yet.
    taken: usize,
    /// Lines that were dropped after those that wait. Until that has been said, nothing more is taken in.
    missing: u64,
}

impl Backlog {
    fn new(most: usize) -> Self {
        Self {
            most,
            lines: VecDeque::new(),
            taken: 0,
            missing: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.taken == 0 && self.missing == 0
    }

    /// Whether the line will be written.
    fn push(&mut self, line: &[u8]) -> bool {
        let fits = self.missing == 0 && self.lines.len() + self.taken + line.len() <= self.most;
        if fits {
            let needed = self.lines.len() + line.len();
            if needed > self.lines.capacity() {
                // Doubled as usual, but never beyond the bound.
                let room = (needed * 2).min(self.most);
                self.lines.reserve_exact(room - self.lines.len());
            }
            self.lines.extend(line);
        } else {
            self.missing += 1;
        }
        fits
    }

    /// Moves the first lines to `chunk`: as many as are written at once, or a longer one. Where lines are missing, and
    /// half of the space is free again, `notice` says so.
    fn take(&mut self, chunk: &mut Vec<u8>, notice: impl FnOnce(u64) -> Vec<u8>) {
        if self.missing > 0 && self.lines.len() <= self.most / 2 {
            self.lines.extend(notice(std::mem::take(&mut self.missing)));
        }
        let ends = self.lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let mut count = 0;
        for (end, _) in ends {
            if count > 0 && end >= MAX_WRITE {
                break;
            }
            count = end + 1;
        }
        chunk.clear();
        chunk.extend(self.lines.drain(..count));
        self.taken = count;
        if self.lines.is_empty() {
            // A burst's memory is not kept.
            self.lines.shrink_to(MAX_WRITE);
        }
    }
}

/// A backlog with the thread that writes it.
#[derive(Debug)]
struct Queue {
    backlog: Mutex<Backlog>,
    arrived: Condvar,
    written: Condvar,
    dropped: Counter,
}

impl Queue {
    fn start(sink: impl Write + Send + 'static, most: usize, dropped: Counter) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            backlog: Mutex::new(Backlog::new(most)),
            arrived: Condvar::new(),
            written: Condvar::new(),
            dropped,
        });
        let writer = queue.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.write_all(sink))?;
        Ok(queue)
    }

    fn push(&self, line: &[u8]) {
        if !self.lock().push(line) {
            self.dropped.inc();
        }
        self.arrived.notify_one();
    }

    /// Waits until everything is written, but not for ever.
    fn flush(&self, patience: Duration) {
        let _written = self
            .written
            .wait_timeout_while(self.lock(), patience, |backlog| !backlog.is_idle());
    }

    fn write_all(&self, mut sink: impl Write) {
        let own = OwnLines::default();
        let mut chunk = Vec::new();
        loop {
            let mut backlog = self
                .arrived
                .wait_while(self.lock(), |backlog| backlog.is_idle())
                .unwrap_or_else(PoisonError::into_inner);
            backlog.take(&mut chunk, |missing| {
                own.line(Level::Warn, format_args!("log lines dropped: count={missing}"))
            });
            drop(backlog);
            if write(&mut sink, &chunk).is_err() {
                // Nobody reads any more, and nobody can be told.
                let lines = chunk.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.inc_by(lines as u64);
            }
            let mut backlog = self.lock();
            backlog.taken = 0;
            if backlog.is_idle() {
                self.written.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [`Write::write_all`], also to what does not block: whoever shares our standard error may have made it so.
fn write(sink: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the logger puts its lines: one with each call.
struct Lines(Arc<Queue>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- What lines look like

/// The usual format, on one line.
fn one_line(formatter: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    ConfigurableFormat::default().format(
        formatter,
        &Record::builder()
            .level(record.level())
            .target(record.target())
            .args(format_args!("{}", Escaped(record.args())))
            .build(),
    )
}

/// A value with its control characters escaped, and those that change how a line is read: line and paragraph separators
/// and the marks that turn the direction of writing.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_unsafe = |c: char| {
            c.is_control()
                || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
        };
        for part in text.split_inclusive(is_unsafe) {
            match part.char_indices().next_back() {
                Some((at, last)) if is_unsafe(last) => {
                    self.0.write_str(&part[..at])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Makes lines that look like records and pass every filter.
struct OwnLines {
    logger: env_logger::Logger,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Default for OwnLines {
    fn default() -> Self {
        struct Text(Arc<Mutex<Vec<u8>>>);

        impl Write for Text {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let text = Arc::default();
        let logger = env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .format(one_line)
            .target(Target::Pipe(Box::new(Text(Arc::clone(&text)))))
            .build();
        Self { logger, text }
    }
}

impl OwnLines {
    fn line(&self, level: Level, message: fmt::Arguments<'_>) -> Vec<u8> {
        self.logger.log(
            &Record::builder()
                .level(level)
                .target(module_path!())
                .args(message)
                .build(),
        );
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The line that tells of a panic, and the way to it where `RUST_BACKTRACE` asks for that.
fn panic_lines(panic: &PanicHookInfo<'_>) -> Vec<u8> {
    let thread = thread::current();
    let at = panic
        .location()
        .map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let message = panic_message(panic.payload());
    let mut lines = OwnLines::default().line(
        Level::Error,
        format_args!(
            "panic: thread={} at={at} message={message:?}",
            thread.name().unwrap_or("unnamed")
        ),
    );
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        lines.extend_from_slice(format!("stack backtrace:\n{backtrace}\n").as_bytes());
    }
    lines
}

/// What a panic says, cut to [`MAX_PANIC_CHARS`].
fn panic_message(payload: &dyn Any) -> &str {
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (None, Some(message)) => message.as_str(),
        (None, None) => "something that is no text",
    };
    match message.char_indices().nth(MAX_PANIC_CHARS) {
        Some((end, _)) => &message[..end],
        None => message,
    }
}

#[cfg(test)]
mod tests;
