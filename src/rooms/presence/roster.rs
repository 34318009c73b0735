//! Everybody who is listed in one room, as far as its members were told. Pure; time is an argument.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::presence::{MemberList, Present};
use crate::protocol::Member;

/// How long somebody who is missing in a roster is given to be listed again.
pub const DOUBT: Duration = Duration::from_secs(5);

/// For how long events are remembered: longer than a read is on its way.
const RECENT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// It was read since the room's presence channel is live.
    known: bool,
    members: HashMap<Arc<str>, Member>,
    /// Who was missing when it was last read, since when.
    doubtful: HashMap<Arc<str>, Instant>,
    /// What the channel told lately, oldest first: who, and whether it is listed.
    recent: VecDeque<(Instant, Member, bool)>,
    /// It will be read again.
    rereads: bool,
}

/// What the members of a room are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Who is listed now, and was not.
    pub joined: Vec<Member>,
    /// Who was listed.
    pub left: Vec<Member>,
}

impl News {
    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty() && self.left.is_empty()
    }
}

impl Roster {
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// The channel was not live for a while, so what came on it is of no use for what is read now.
    pub(super) fn interrupted(&mut self) {
        self.recent.clear();
        if !self.known {
            // Nobody was told of these, and who has left meanwhile would stay.
            self.members.clear();
        }
    }

    pub(super) fn changed(&mut self, present: Present, now: Instant) -> News {
        self.forget(now);
        let mut news = News::default();
        for member in present.left {
            self.recent.push_back((now, member.clone(), false));
            self.doubtful.remove(&member.session);
            // What is told is what was told when it came.
            news.left.extend(self.members.remove(&member.session));
        }
        for member in present.joined {
            self.recent.push_back((now, member.clone(), true));
            self.doubtful.remove(&member.session);
            if !self.members.contains_key(&member.session) {
                self.members.insert(member.session.clone(), member.clone());
                news.joined.push(member);
            }
        }
        self.as_news(news)
    }

    /// Nobody is told anything before the roster is known: then everybody who is there was there.
    fn as_news(&self, news: News) -> News {
        if self.known { news } else { News::default() }
    }

    /// Everybody was read. Whether it has to be read again after [`DOUBT`], too.
    pub(super) fn read(&mut self, members: Vec<Member>, now: Instant) -> (News, bool) {
        self.forget(now);
        let gone: HashSet<Arc<str>> = self.left_lately();
        let (mut news, mut doubts) = (News::default(), false);
        let mut there: HashSet<Arc<str>> = HashSet::with_capacity(members.len());
        for member in members {
            if gone.contains(&member.session) {
                doubts = true;
                continue;
            }
            there.insert(member.session.clone());
            self.doubtful.remove(&member.session);
            if !self.members.contains_key(&member.session) {
                self.members.insert(member.session.clone(), member.clone());
                news.joined.push(member);
            }
        }
        // Before, who is there and was not read has come on the channel: his leaving will, too.
        if self.known {
            let missing = self.members.keys().filter(|session| !there.contains(*session));
            let missing: Vec<Arc<str>> = missing.cloned().collect();
            for session in missing {
                let since = *self.doubtful.entry(session.clone()).or_insert(now);
                if now.saturating_duration_since(since) >= DOUBT {
                    self.doubtful.remove(&session);
                    news.left.extend(self.members.remove(&session));
                } else {
                    doubts = true;
                }
            }
        }
        let news = self.as_news(news);
        self.known = true;
        let again = doubts && !self.rereads;
        self.rereads |= doubts;
        (news, again)
    }

    /// It is read again now. Whether that is needed.
    pub(super) fn begin_again(&mut self) -> bool {
        std::mem::take(&mut self.rereads)
    }

    fn left_lately(&self) -> HashSet<Arc<str>> {
        let mut gone = HashSet::new();
        for (_, member, listed) in &self.recent {
            if *listed {
                gone.remove(&member.session);
            } else {
                gone.insert(member.session.clone());
            }
        }
        gone
    }

    /// See [`Presence::corrected`](super::Presence::corrected). Also: somebody is missing in the list without a reason.
    pub(super) fn corrected(&self, list: MemberList, since: Instant) -> (MemberList, bool) {
        if !self.known || !list.is_whole() {
            return (list, false);
        }
        let recent = self.recent.iter().filter(|(at, ..)| *at >= since);
        let last: HashMap<&str, (&Member, bool)> = recent
            .map(|(_, member, listed)| (&*member.session, (member, *listed)))
            .collect();
        let mut members = list.members;
        members.retain(|member| !last.contains_key(&*member.session));
        let listed = last.values().filter(|(_, listed)| *listed);
        members.extend(listed.map(|(member, _)| (*member).clone()));
        let there: HashSet<Arc<str>> = members.iter().map(|member| member.session.clone()).collect();
        let missing = self
            .members
            .values()
            .filter(|member| !there.contains(&member.session));
        let listed_before = members.len();
        members.extend(missing.cloned());
        let is_contradicted = members.len() > listed_before;
        (MemberList::new(members.len() as u64, members), is_contradicted)
    }

    #[cfg(test)]
    pub(super) fn doubtful_count(&self) -> usize {
        self.doubtful.len()
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > RECENT;
        while self.recent.front().is_some_and(|(at, ..)| is_old(at)) {
            self.recent.pop_front();
        }
    }
}
