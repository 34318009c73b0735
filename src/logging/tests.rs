//! The log's queue with writers that stall, fail and come back, and what its lines look like.

use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// How long anything that should happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// A sink that hands over each piece it gets, and takes the next only when it is told how the last one went.
struct Slow {
    pieces: Sender<String>,
    outcomes: Receiver<io::Result<()>>,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = String::from_utf8(bytes.to_vec()).expect("whole characters");
        // Without the other ends the test is over.
        let _ = self.pieces.send(piece);
        match self.outcomes.recv() {
            Ok(Err(error)) => Err(error),
            _ => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A queue with this bound on a [`Slow`] sink.
fn slow_queue(most: usize) -> (Arc<Queue>, Receiver<String>, Sender<io::Result<()>>) {
    let (pieces, written) = channel();
    let (outcome, outcomes) = channel();
    let queue = Queue::start(Slow { pieces, outcomes }, most, Counter::default()).expect("a thread");
    (queue, written, outcome)
}

fn next(written: &Receiver<String>) -> String {
    written.recv_timeout(PATIENCE).expect("a piece is written")
}

/// Lets everything through until the queue is empty: what is written.
fn rest(queue: &Queue, written: &Receiver<String>, outcome: &Sender<io::Result<()>>) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    while !queue.lock().is_idle() {
        assert!(Instant::now() < deadline, "the queue does not end");
        if let Ok(piece) = written.recv_timeout(Duration::from_millis(5)) {
            text += &piece;
            outcome.send(Ok(())).expect("the writer is there");
        }
    }
    text
}

#[test]
fn what_does_not_fit_is_dropped_and_told_where_it_is_missing() {
    let (queue, written, outcome) = slow_queue(200);
    queue.push(b"the first\n");
    assert_eq!(next(&written), "the first\n");
    // The first one counts until it is written.
    for line in 0..23 {
        queue.push(format!("line {line:4}\n").as_bytes());
    }
    assert_eq!(queue.dropped.get(), 4);
    assert_eq!(queue.lock().lines.len(), 190);
    outcome.send(Ok(())).expect("the writer is there");
    let kept: String = (0..19).map(|line| format!("line {line:4}\n")).collect();
    assert_eq!(next(&written), kept);
    // There is room, but not after what is missing.
    queue.push(b"too soon\n");
    assert_eq!(queue.dropped.get(), 5);
    outcome.send(Ok(())).expect("the writer is there");
    let notice = next(&written);
    assert!(
        notice.ends_with("] log lines dropped: count=5\n") && notice.contains(" WARN "),
        "{notice:?}"
    );
    queue.push(b"after\n");
    outcome.send(Ok(())).expect("the writer is there");
    assert_eq!(rest(&queue, &written, &outcome), "after\n");
    assert_eq!(queue.dropped.get(), 5);
}

#[test]
fn a_line_that_never_fits_is_told_though_nothing_waits() {
    let (queue, written, outcome) = slow_queue(60);
    queue.push(&[b'x'; 61]);
    let text = rest(&queue, &written, &outcome);
    assert!(text.ends_with("log lines dropped: count=1\n"), "{text:?}");
    assert_eq!(queue.dropped.get(), 1);
}

#[test]
fn nobody_waits_for_a_reader_that_stalls() {
    let (queue, written, _outcome) = slow_queue(MAX_QUEUED_BYTES);
    queue.push(b"the first\n");
    assert_eq!(next(&written), "the first\n");
    let line = [b"x".repeat(999), b"\n".to_vec()].concat();
    for _ in 0..2_000 {
        queue.push(&line);
    }
    let (kept, memory) = {
        let backlog = queue.lock();
        (backlog.lines.len() + backlog.taken, backlog.lines.capacity())
    };
    assert!(
        (MAX_QUEUED_BYTES - 1_000..=MAX_QUEUED_BYTES).contains(&kept),
        "{kept} bytes are kept"
    );
    assert!(memory <= MAX_QUEUED_BYTES, "{memory} bytes for them");
    let since = Instant::now();
    queue.flush(Duration::from_millis(50));
    assert!(since.elapsed() >= Duration::from_millis(50) && since.elapsed() < PATIENCE);
}

#[test]
fn a_flush_ends_when_everything_is_written() {
    let (queue, written, outcome) = slow_queue(1_000);
    queue.push(b"last words\n");
    let flusher = thread::spawn(move || {
        queue.flush(PATIENCE);
        assert!(queue.lock().is_idle());
        Instant::now()
    });
    assert_eq!(next(&written), "last words\n");
    assert!(!flusher.is_finished());
    let since = Instant::now();
    outcome.send(Ok(())).expect("the writer is there");
    let flushed = flusher.join().expect("no panic");
    assert!(
        flushed.duration_since(since) < PATIENCE / 2,
        "the end was not noticed"
    );
}

#[test]
fn what_cannot_be_written_is_counted_and_the_next_is_tried() {
    let (queue, written, outcome) = slow_queue(1_000);
    queue.push(b"one\n");
    assert_eq!(next(&written), "one\n");
    queue.push(b"two\n");
    outcome
        .send(Err(ErrorKind::BrokenPipe.into()))
        .expect("the writer is there");
    assert_eq!(next(&written), "two\n");
    assert_eq!(queue.dropped.get(), 1);
    // Somebody has made standard error one that does not block.
    outcome
        .send(Err(ErrorKind::WouldBlock.into()))
        .expect("the writer is there");
    assert_eq!(next(&written), "two\n");
    outcome.send(Ok(())).expect("the writer is there");
    assert_eq!(rest(&queue, &written, &outcome), "");
    assert_eq!(queue.dropped.get(), 1);
}

#[test]
fn lines_are_written_whole_and_not_too_many_at_once() {
    let mut backlog = Backlog::new(100_000);
    let long = [vec![b'l'; 10_000], b"\n".to_vec()].concat();
    let short = [vec![b's'; 2_999], b"\n".to_vec()].concat();
    for line in [&short, &short, &long, &short] {
        assert!(backlog.push(line));
    }
    let mut chunk = Vec::new();
    for expected in [&short, &short, &long, &short] {
        backlog.take(&mut chunk, |_| unreachable!("nothing is missing"));
        assert_eq!(chunk.len(), expected.len());
        assert_eq!(&chunk, expected);
    }
    backlog.taken = 0;
    assert!(backlog.is_idle());
    assert!(backlog.lines.capacity() <= 2 * MAX_WRITE, "memory is kept");
}

proptest! {
    /// Against a list of lines: order, bound, and a word wherever something is missing.
    #[test]
    fn a_backlog_is_a_bounded_list_with_holes_that_are_told(
        steps in proptest::collection::vec(proptest::option::weighted(0.7, 1..40_usize), 1..200),
    ) {
        const MOST: usize = 100;
        let mut backlog = Backlog::new(MOST);
        let (mut chunk, mut written, mut expected) = (Vec::new(), String::new(), String::new());
        let mut missing = 0;
        let mut take = |backlog: &mut Backlog, missing: &mut u64, expected: &mut String| {
            if *missing > 0 && backlog.lines.len() <= MOST / 2 {
                *expected += &format!("{missing} missing\n");
                *missing = 0;
            }
            backlog.take(&mut chunk, |count| format!("{count} missing\n").into_bytes());
            written += std::str::from_utf8(&chunk).expect("ASCII");
            backlog.taken = 0;
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Some(length) => {
                    let line = format!("{number}{}\n", "x".repeat(length));
                    let has_room = missing == 0 && backlog.lines.len() + line.len() <= MOST;
                    prop_assert_eq!(backlog.push(line.as_bytes()), has_room);
                    if has_room {
                        expected += &line;
                    } else {
                        missing += 1;
                    }
                }
                None => take(&mut backlog, &mut missing, &mut expected),
            }
            prop_assert!(backlog.lines.len() <= MOST);
        }
        while !backlog.is_idle() {
            take(&mut backlog, &mut missing, &mut expected);
        }
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn nothing_that_is_escaped_can_end_a_line(text in any::<String>()) {
        let escaped = Escaped(&text).to_string();
        prop_assert!(!escaped.chars().any(char::is_control));
        let is_harmless = !text.chars().any(|c| c.is_control() || ('\u{2000}'..='\u{206f}').contains(&c));
        prop_assert!(!is_harmless || escaped == text);
    }
}

#[test]
fn control_characters_are_escaped_and_nothing_else() {
    for (text, escaped) in [
        ("room=\"a \\n b\" é🙂", "room=\"a \\n b\" é🙂"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
        ("\u{1b}[31mred\u{7f}\u{9b}", "\\u{1b}[31mred\\u{7f}\\u{9b}"),
        ("\u{2028}\u{202e}\u{2066}", "\\u{2028}\\u{202e}\\u{2066}"),
        ("", ""),
    ] {
        assert_eq!(Escaped(text).to_string(), escaped);
    }
}

#[test]
fn a_line_looks_as_it_always_did() {
    let usual = {
        let text = Arc::new(Mutex::new(Vec::new()));
        let target = Collector(text.clone());
        let logger = env_logger::Builder::new()
            .filter_level(LevelFilter::Trace)
            .target(Target::Pipe(Box::new(target)))
            .build();
        logger.log(
            &Record::builder()
                .level(Level::Info)
                .target(module_path!())
                .args(format_args!("started: room=\"a\""))
                .build(),
        );
        text.lock().map(|text| text.clone()).expect("no panic")
    };
    let usual = String::from_utf8(usual).expect("a text");
    let ours = OwnLines::default();
    let ours = ours.line(Level::Info, format_args!("started: room=\"a\""));
    let ours = String::from_utf8(ours).expect("a text");
    // The module's name, and the time, which may have gone on.
    let (_, usual) = usual.split_once(' ').expect("a time before the level");
    let (time, ours) = ours.split_once(' ').expect("a time before the level");
    assert_eq!(ours, usual.replace("::tests", ""));
    assert_eq!(time.len(), "[2024-11-24T05:06:40Z".len());
    let two_lines = OwnLines::default().line(Level::Warn, format_args!("a\nb"));
    assert!(two_lines.ends_with(b"] a\\nb\n"));
}

/// Collects what is written.
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Not a test of its own: [`a_panic_is_one_line`] runs it in a process of its own, because a process has one logger and
/// one panic hook.
#[test]
#[ignore = "panics, in the process of another test"]
fn panics() {
    let _log = start("off", Counter::default()).expect("a thread");
    let thread = thread::Builder::new().name("the one\u{1b}[31m".to_owned());
    let panicking = thread.spawn(|| panic!("broken:\n\u{1b}[31m {}", "é".repeat(MAX_PANIC_CHARS)));
    assert!(panicking.expect("a thread").join().is_err());
}

#[test]
fn a_panic_is_one_line() {
    let lines = |backtrace: &str| {
        let output = Command::new(std::env::current_exe().expect("this test's file"))
            .args(["--exact", "logging::tests::panics", "--ignored", "--nocapture"])
            .env("RUST_BACKTRACE", backtrace)
            .env_remove("RUST_LIB_BACKTRACE")
            .stdin(Stdio::null())
            .output()
            .expect("this test's file runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("a text")
    };
    let alone = lines("0");
    let (_, line) = alone.split_once(" ERROR ").expect("an error in the log");
    let begins = "roomcast::logging] panic: thread=the one\\u{1b}[31m at=src/logging/tests.rs:";
    assert!(line.starts_with(begins), "{alone}");
    // Cut before it is escaped: fourteen characters stand before the last ones.
    let message = format!(
        " message=\"broken:\\n\\u{{1b}}[31m {}\"\n",
        "é".repeat(MAX_PANIC_CHARS - 14)
    );
    assert!(line.ends_with(&message), "{alone}");
    assert_eq!(alone.lines().count(), 1, "{alone}");

    let with_the_way = lines("1");
    assert!(with_the_way.contains("\nstack backtrace:\n"), "{with_the_way}");
    assert!(with_the_way.contains("logging::tests::panics"), "{with_the_way}");
}
