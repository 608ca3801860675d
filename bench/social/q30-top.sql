-- top 20 posts by likes in a date range | 1.4
SELECT user_id, id, title, likes FROM posts WHERE created >= '2026-03-01' AND created < '2026-04-01' ORDER BY likes DESC, id LIMIT 20;
