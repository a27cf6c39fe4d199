//! How many children the template forks in advance.
//!
//! A few when nothing is going on; more, up to a bound, when requests found none; and none at all where they end before they can
//! take a request, because then something is wrong that forking more does not mend.

const AT_REST: usize = 2;
const AT_MOST: usize = 8;
/// After so many forks in a row of which nothing came, there are no more.
const PATIENCE: u32 = 8;
/// After so many requests that never met a shortage, one spare less is kept.
const CALM: u32 = 64;

/// The policy; the template asks it after everything that happens.
#[derive(Debug, Clone)]
pub struct Spares {
    wanted: usize,
    deaths: u32,
    calm: u32,
}

impl Default for Spares {
    fn default() -> Self {
        Self { wanted: AT_REST, deaths: 0, calm: 0 }
    }
}

impl Spares {
    /// How many to fork now, with `idle` waiting and perhaps requests waiting for one.
    pub fn missing(&self, idle: usize, requests_wait: bool) -> usize {
        if self.is_given_up() {
            return 0;
        }
        self.wanted.saturating_sub(idle).max(usize::from(requests_wait && idle == 0))
    }

    /// `count` spares have become children; `left` still wait.
    pub fn taken(&mut self, count: usize, left: usize) {
        if count == 0 {
            return;
        }
        self.deaths = 0;
        if left == 0 {
            self.calm = 0;
            self.wanted = (self.wanted * 2).min(AT_MOST);
        } else {
            self.calm += 1;
            if self.calm >= CALM && self.wanted > AT_REST {
                self.calm = 0;
                self.wanted -= 1;
            }
        }
    }

    /// A forked process ended before it could take a request.
    pub fn stillborn(&mut self) {
        self.deaths += 1;
    }

    /// Whether spares die so regularly that no more are forked.
    pub fn is_given_up(&self) -> bool {
        self.deaths >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_wait() {
        let spares = Spares::default();
        assert_eq!(spares.missing(0, false), AT_REST);
        assert_eq!(spares.missing(AT_REST, true), 0);
    }

    #[test]
    fn a_shortage_raises_the_number_and_calm_lowers_it() {
        let mut spares = Spares::default();
        for _ in 0..10 {
            spares.taken(1, 0);
        }
        assert_eq!(spares.missing(0, false), AT_MOST);
        for _ in 0..CALM * 10 {
            spares.taken(1, 1);
        }
        assert_eq!(spares.missing(0, false), AT_REST);
    }

    #[test]
    fn those_that_die_at_once_are_not_replaced_for_ever() {
        let mut spares = Spares::default();
        for _ in 0..PATIENCE {
            assert!(spares.missing(0, true) > 0);
            spares.stillborn();
        }
        assert_eq!(spares.missing(0, true), 0);
        spares.taken(1, 1);
        assert!(spares.missing(0, true) > 0);
    }
}
