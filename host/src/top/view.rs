//! What is shown of the picture, and how keys change that.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::picture::{RulesStatus, ServicePicture};
use super::poll::{TenantKey, Update};
use super::row::{Row, Sort, rows};

#[derive(Debug)]
pub(super) struct View {
    pub(super) services: Vec<ServicePicture>,
    pub(super) sort: Sort,
    pub(super) page: Page,
    chosen: Option<TenantKey>,
    /// What was told of the rules of a tenant, or why nothing was.
    rules: Option<(TenantKey, Result<RulesStatus, String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// All tenants.
    List,
    /// All that is known of the chosen one.
    Details,
    Help,
}

impl View {
    pub(super) fn new(services: Vec<ServicePicture>) -> Self {
        Self { services, sort: Sort::default(), page: Page::List, chosen: None, rules: None }
    }

    /// Returns the rows in their order.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        rows(&self.services, self.sort)
    }

    /// Returns where the chosen tenant is among these rows: at first, and when it is gone, that is the first one.
    pub(super) fn chosen_among(&self, rows: &[Row<'_>]) -> usize {
        rows.iter().position(|row| Some(&row.key) == self.chosen.as_ref()).unwrap_or(0)
    }

    /// Returns the tenant of which all is shown.
    pub(super) fn looked_at(&self) -> Option<TenantKey> {
        self.chosen.clone().filter(|_| self.page == Page::Details)
    }

    /// Returns what is known of the rules of this tenant.
    pub(super) fn rules_of(&self, key: &TenantKey) -> Option<&Result<RulesStatus, String>> {
        self.rules.as_ref().filter(|(of, _)| of == key).map(|(_, rules)| rules)
    }

    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Tenants { service, at, told } => {
                if let Some(service) = self.services.get_mut(service) {
                    service.update(at, told);
                }
            }
            Update::Rules { of, told } => self.rules = Some((of, told.map_err(|error| error.to_string()))),
        }
    }

    /// Does what a key says. Returns whether that is the end.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        match (key.code, self.page) {
            (KeyCode::Char('c'), _) if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            (KeyCode::Char('q'), _) | (KeyCode::Esc, Page::List) => return true,
            (KeyCode::Esc | KeyCode::Char('?'), Page::Help)
            | (KeyCode::Esc | KeyCode::Enter, Page::Details) => {
                self.page = Page::List;
            }
            (KeyCode::Char('?'), _) => self.page = Page::Help,
            (KeyCode::Char('s'), Page::List) => self.sort = self.sort.next(),
            (KeyCode::Down | KeyCode::Char('j'), _) => self.choose(|at| at.saturating_add(1)),
            (KeyCode::Up | KeyCode::Char('k'), _) => self.choose(|at| at.saturating_sub(1)),
            (KeyCode::PageDown, _) => self.choose(|at| at.saturating_add(10)),
            (KeyCode::PageUp, _) => self.choose(|at| at.saturating_sub(10)),
            (KeyCode::Home, _) => self.choose(|_| 0),
            (KeyCode::End, _) => self.choose(|_| usize::MAX),
            (KeyCode::Enter, Page::List) => {
                self.choose(|at| at);
                if self.chosen.is_some() {
                    self.page = Page::Details;
                }
            }
            _ => {}
        }
        false
    }

    /// Chooses another row, counted from the chosen one.
    fn choose(&mut self, to: impl Fn(usize) -> usize) {
        let rows = self.rows();
        let at = to(self.chosen_among(&rows)).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(at).map(|row| row.key.clone());
    }
}
