//! Which image comes next, and which gets another try: at most so many at once; and one that found an image taken while others were
//! at work is tried once more, alone, when all the others are done.
//!
//! Pure: images are numbers, and nothing here knows what becomes of them.

use std::collections::VecDeque;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Work on this image starts; whoever is told so does it.
    Start(usize),
    /// One of those that are at work has to end first.
    Wait,
    /// Nothing is left.
    Over,
}

/// The images of a command.
#[derive(Debug)]
pub(super) struct Queue {
    most_at_once: usize,
    waiting: VecDeque<usize>,
    /// Those that get another try.
    again: VecDeque<usize>,
    working: Vec<Working>,
}

#[derive(Debug)]
struct Working {
    image: usize,
    is_second_try: bool,
    /// Others were at work meanwhile.
    had_company: bool,
}

impl Queue {
    /// The images from 0 on, in this order. `most_at_once` is at least 1.
    pub(super) fn new(images: usize, most_at_once: usize) -> Self {
        Self { most_at_once, waiting: (0..images).collect(), again: VecDeque::new(), working: Vec::new() }
    }

    /// What is to be done now. An image that starts is at work until [`Queue::end`] says otherwise.
    pub(super) fn next(&mut self) -> Next {
        if self.working.len() < self.most_at_once
            && let Some(image) = self.waiting.pop_front()
        {
            return self.start(image, false);
        }
        if !self.working.is_empty() {
            return Next::Wait;
        }
        self.again.pop_front().map_or(Next::Over, |image| self.start(image, true))
    }

    fn start(&mut self, image: usize, is_second_try: bool) -> Next {
        self.working.iter_mut().for_each(|other| other.had_company = true);
        let had_company = !self.working.is_empty();
        self.working.push(Working { image, is_second_try, had_company });
        Next::Start(image)
    }

    /// Takes note that an image is not at work any more. True if it gets another try, so that how it ended does not count:
    /// `found_taken` says that it found an image taken, which may have been by one of the others.
    pub(super) fn end(&mut self, image: usize, found_taken: bool) -> bool {
        let Some(index) = self.working.iter().position(|working| working.image == image) else { return false };
        let working = self.working.swap_remove(index);
        let gets_another = found_taken && working.had_company && !working.is_second_try;
        if gets_another {
            self.again.push_back(image);
        }
        gets_another
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn images_start_in_their_order_as_places_become_free() {
        let mut queue = Queue::new(3, 2);
        assert_eq!([queue.next(), queue.next(), queue.next()], [Next::Start(0), Next::Start(1), Next::Wait]);
        assert!(!queue.end(1, false));
        assert_eq!([queue.next(), queue.next()], [Next::Start(2), Next::Wait]);
        assert!(!queue.end(0, false) && !queue.end(2, false));
        assert_eq!(queue.next(), Next::Over);
    }

    #[test]
    fn who_was_alone_has_nobody_of_his_own_to_wait_for() {
        let mut queue = Queue::new(2, 1);
        for image in 0..2 {
            assert_eq!([queue.next(), queue.next()], [Next::Start(image), Next::Wait]);
            assert!(!queue.end(image, true));
        }
        assert_eq!(queue.next(), Next::Over);
    }

    #[test]
    fn second_tries_come_last_and_one_by_one() {
        let mut queue = Queue::new(4, 3);
        assert_eq!([queue.next(), queue.next(), queue.next()], [Next::Start(0), Next::Start(1), Next::Start(2)]);
        assert!(queue.end(0, true) && queue.end(2, true));
        assert_eq!([queue.next(), queue.next()], [Next::Start(3), Next::Wait]);
        assert!(!queue.end(1, false));
        assert_eq!(queue.next(), Next::Wait);
        assert!(queue.end(3, true));
        for image in [0, 2, 3] {
            assert_eq!([queue.next(), queue.next()], [Next::Start(image), Next::Wait]);
            assert!(!queue.end(image, true), "there is no third try");
        }
        assert_eq!(queue.next(), Next::Over);
    }

    proptest! {
        #[test]
        fn every_image_ends_once_whatever_happens(
            images in 0..40usize,
            most in 1..9usize,
            ends in proptest::collection::vec(any::<(u8, bool)>(), 80),
        ) {
            let mut queue = Queue::new(images, most);
            let (mut working, mut company) = (Vec::new(), vec![false; images]);
            let (mut tries, mut ended) = (vec![0; images], vec![0; images]);
            let mut ends = ends.into_iter();
            loop {
                match queue.next() {
                    Next::Start(image) => {
                        prop_assert!(!working.contains(&image) && ended[image] == 0);
                        working.push(image);
                        tries[image] += 1;
                        prop_assert!(working.len() <= most);
                        if tries.iter().any(|tries| *tries > 1) {
                            prop_assert!(working.len() == 1 && tries.iter().all(|tries| *tries > 0), "second tries are alone");
                        }
                        if working.len() > 1 {
                            working.iter().for_each(|image| company[*image] = true);
                        }
                    }
                    Next::Wait => {
                        prop_assert!(!working.is_empty(), "nobody to wait for");
                        let could_start = tries.contains(&0) && working.len() < most;
                        prop_assert!(!could_start, "a place is left free");
                        let (place, found_taken) = ends.next().expect("at most two tries for each image");
                        let image = working.swap_remove(usize::from(place) % working.len());
                        let again = queue.end(image, found_taken);
                        prop_assert_eq!(again, found_taken && company[image] && tries[image] == 1);
                        ended[image] += usize::from(!again);
                        company[image] = false;
                    }
                    Next::Over => break,
                }
            }
            prop_assert!(working.is_empty());
            prop_assert!(ended.iter().all(|count| *count == 1), "{ended:?}");
            prop_assert!(tries.iter().all(|count| (1..=2).contains(count)), "{tries:?}");
        }
    }
}
