//! Parts that a node must not outlive, and how it hears of their end.
//!
//! An actor or a task that has died is silent: messages to it are dropped without a word, and a node without one of its
//! parts would only look alive. So each of them holds a [`Lifeline`], and whoever runs the node waits for the first
//! that ends, for whatever reason. Knows nothing of the parts.

use tokio::sync::mpsc;

/// Makes lifelines.
#[derive(Clone, Debug)]
pub struct Lifelines(mpsc::UnboundedSender<&'static str>);

/// Where the ends of parts are heard of, by name.
#[derive(Debug)]
pub struct Ends(mpsc::UnboundedReceiver<&'static str>);

/// Held by a part as long as it works; dropped with it, by a panic too.
#[derive(Debug)]
pub struct Lifeline {
    part: &'static str,
    ends: mpsc::UnboundedSender<&'static str>,
}

impl Lifelines {
    /// For the parts of one node.
    #[must_use]
    pub fn new() -> (Self, Ends) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Ends(receiver))
    }

    /// For one part, named as an operator would.
    #[must_use]
    pub fn hold(&self, part: &'static str) -> Lifeline {
        Lifeline {
            part,
            ends: self.0.clone(),
        }
    }
}

impl Lifeline {
    /// Holds the line as long as a task runs.
    pub(crate) async fn over<T>(self, task: impl Future<Output = T>) -> T {
        let _line = self;
        task.await
    }
}

impl Ends {
    /// Waits until a part has ended; which one.
    pub async fn next(&mut self) -> &'static str {
        match self.0.recv().await {
            Some(part) => part,
            // Nobody holds a line any more.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Fails when the node has ended, and nobody wants to know.
        let _ = self.ends.send(self.part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix::test]
    async fn a_part_that_panics_is_heard_of() {
        let (lines, mut ends) = Lifelines::new();
        let stays = lines.hold("the one that stays");
        let line = lines.hold("the one that dies");
        let task = actix::spawn(async move {
            let _line = line;
            panic!("on purpose");
        });
        assert_eq!(ends.next().await, "the one that dies");
        assert!(task.await.is_err());
        drop(stays);
    }
}
