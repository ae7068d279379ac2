alter table entries add column written timestamptz not null default now();
