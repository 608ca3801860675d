-- single-row INSERT | 1.5 | 0.60
\set id random(1, :users)
\set post random(100000000, 1000000000000)
INSERT INTO posts VALUES (:id, :post, 'a new post', 0, now()) ON CONFLICT DO NOTHING;
