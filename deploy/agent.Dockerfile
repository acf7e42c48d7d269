# docker build -f deploy/agent.Dockerfile -t spile-agent .   (after `make build`)
FROM scratch
COPY bin/spile-agent /spile-agent
USER 0
ENTRYPOINT ["/spile-agent"]
