\set id random(1, 1000000000000)
INSERT INTO posts VALUES (:id::bigint + :rows::bigint, 1, 'a new post', now(), 0) ON CONFLICT DO NOTHING;
