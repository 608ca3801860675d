-- insert, update and select of one key in a block | 1.6 | 0.50
\set id random(1, :users)
\set post random(100000000, 1000000000000)
BEGIN;
INSERT INTO posts VALUES (:id, :post, 'a new post', 0, now()) ON CONFLICT DO NOTHING;
UPDATE users SET age = age + 1 WHERE id = :id;
SELECT count(*) FROM posts WHERE user_id = :id;
COMMIT;
