-- :users people, ten posts each, three likes a post.
INSERT INTO users SELECT i, 'user ' || i, 'region ' || i % 10, 18 + i % 60, '2026-01-01'::timestamptz + i * interval '1 minute'
FROM generate_series(1, :users) i;
INSERT INTO posts SELECT 1 + (i::bigint * 7919) % :users, i, 'the title of post ' || i, (i::bigint * 31) % 100, '2026-01-01'::timestamptz + i * interval '20 seconds'
FROM generate_series(1, :users * 10) i;
INSERT INTO likes SELECT 1 + ((1 + i % (:users * 10))::bigint * 7919) % :users, 1 + i % (:users * 10), 1 + (i * 104729::bigint + i / (:users * 10) * 31) % :users, '2026-02-01'::timestamptz + i * interval '1 second'
FROM generate_series(1, :users * 30) i;
