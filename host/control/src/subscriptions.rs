//! Notifies subscribers of events: a bounded number of subscriptions, each with a bounded queue.
//! Publishing never waits; a subscriber who does not read loses the oldest events, which are counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::envelope::{Lost, Notice, Told};
use crate::event::{Event, EventKind, Stamped};
use crate::limits::{MAX_QUEUED_EVENTS, MAX_SUBSCRIPTIONS};
use crate::refusal::{Code, Refusal};

/// The place where events are published. Cheap to clone; every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<Hub>>);

#[derive(Debug, Default)]
struct Hub {
    /// The number of events so far.
    number: u64,
    /// The number of subscriptions so far.
    last: u64,
    queues: Vec<Queue>,
}

/// The pending events of a subscription.
#[derive(Debug)]
struct Queue {
    subscription: u64,
    /// The kinds to notify of; None for all.
    kinds: Option<Vec<EventKind>>,
    waiting: VecDeque<Stamped>,
    lost: u64,
    news: Arc<Notify>,
}

impl Events {
    /// Publishes an event. Takes a moment, and never waits for a subscriber.
    pub fn publish(&self, event: Event) {
        let mut hub = self.0.lock();
        hub.number += 1;
        let event = Stamped {
            number: hub.number,
            time_ms: now(),
            event,
        };
        for queue in &mut hub.queues {
            queue.add(&event);
        }
    }

    /// Creates the empty set of subscriptions of a connection.
    pub(crate) fn connection(&self) -> Subscriptions {
        Subscriptions {
            events: self.clone(),
            own: Vec::new(),
            news: Arc::default(),
        }
    }
}

impl Queue {
    fn add(&mut self, event: &Stamped) {
        let kind = event.event.kind();
        if self
            .kinds
            .as_ref()
            .is_some_and(|kinds| !kinds.contains(&kind))
        {
            return;
        }
        if self.waiting.len() >= MAX_QUEUED_EVENTS {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(event.clone());
        self.news.notify_one();
    }

    /// Takes the next notification.
    fn next(&mut self) -> Option<Notice> {
        let subscription = self.subscription;
        if self.lost > 0 {
            let events = std::mem::take(&mut self.lost);
            return Some(Notice::Lost(Lost {
                subscription,
                events,
            }));
        }
        let event = self.waiting.pop_front()?;
        Some(Notice::Event(Told {
            subscription,
            event,
        }))
    }
}

/// The subscriptions of one connection, which end with it.
#[derive(Debug)]
pub struct Subscriptions {
    events: Events,
    own: Vec<u64>,
    news: Arc<Notify>,
}

impl Subscriptions {
    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Subscribes to events of these kinds, or of all.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn add(&mut self, kinds: Option<Vec<EventKind>>) -> Result<u64, Refusal> {
        let mut hub = self.events.0.lock();
        if hub.queues.len() >= MAX_SUBSCRIPTIONS {
            let text = format!(
                "there are {MAX_SUBSCRIPTIONS} subscriptions already: end one (`manatee events`)"
            );
            return Err(Refusal::new(Code::TooMany, text));
        }
        hub.last += 1;
        let subscription = hub.last;
        hub.queues.push(Queue {
            subscription,
            kinds,
            waiting: VecDeque::new(),
            lost: 0,
            news: self.news.clone(),
        });
        self.own.push(subscription);
        Ok(subscription)
    }

    /// Ends a subscription.
    ///
    /// # Errors
    ///
    /// If it is not of this connection.
    pub fn remove(&mut self, subscription: u64) -> Result<(), Refusal> {
        let Some(index) = self.own.iter().position(|own| *own == subscription) else {
            let text = format!("this connection has no subscription {subscription}");
            return Err(Refusal::not_found(text));
        };
        self.own.swap_remove(index);
        let mut hub = self.events.0.lock();
        hub.queues
            .retain(|queue| queue.subscription != subscription);
        Ok(())
    }

    /// Waits for the next notification.
    pub async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.take() {
                return notice;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<Notice> {
        let mut hub = self.events.0.lock();
        let own = |queue: &&mut Queue| self.own.contains(&queue.subscription);
        hub.queues.iter_mut().filter(own).find_map(Queue::next)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        let mut hub = self.events.0.lock();
        hub.queues
            .retain(|queue| !self.own.contains(&queue.subscription));
    }
}

/// Returns the time in milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notice: Option<Notice>) -> (u64, u64) {
        match notice {
            Some(Notice::Event(Told {
                subscription,
                event,
            })) => (subscription, event.number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_does_not_read_loses_the_oldest_and_is_told_so() {
        let events = Events::default();
        let mut slow = events.connection();
        let all = slow.add(None).unwrap();
        for _ in 0..MAX_QUEUED_EVENTS + 10 {
            events.publish(Event::Attached);
        }
        let lost = Lost {
            subscription: all,
            events: 10,
        };
        assert_eq!(slow.take(), Some(Notice::Lost(lost)));
        let numbers: Vec<_> = (0..MAX_QUEUED_EVENTS)
            .map(|_| told(slow.take()).1)
            .collect();
        assert_eq!(numbers[0], 11);
        assert!(numbers.is_sorted());
        assert_eq!(slow.take(), None);
    }

    #[test]
    fn kinds_are_told_apart() {
        let events = Events::default();
        let mut one = events.connection();
        let gone = one.add(Some(vec![EventKind::Detached])).unwrap();
        events.publish(Event::Attached);
        events.publish(Event::Detached);
        assert_eq!(told(one.take()), (gone, 2));
        assert_eq!(one.take(), None);
    }

    #[test]
    fn subscriptions_are_bounded_and_end_with_their_connection() {
        let events = Events::default();
        let mut one = events.connection();
        for _ in 0..MAX_SUBSCRIPTIONS {
            one.add(None).unwrap();
        }
        let mut other = events.connection();
        assert_eq!(other.add(None).unwrap_err().code, Code::TooMany);
        let first = one.own[0];
        assert_eq!(other.remove(first).unwrap_err().code, Code::NotFound);
        one.remove(first).unwrap();
        other.add(None).unwrap();
        drop(one);
        assert_eq!(events.0.lock().queues.len(), 1);
        drop(other);
        assert!(events.0.lock().queues.is_empty());
    }
}
